"""What a shard can compute: one module per kind, whose `compute` turns pictures and settings into arrays."""
