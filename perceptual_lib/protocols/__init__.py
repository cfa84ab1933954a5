"""The protocols that the paper scores explanations with, one module each."""
