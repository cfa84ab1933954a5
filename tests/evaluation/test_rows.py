"""What rows are made of: ranges of layers, subsets."""

from perceptual_lib.core.activations import Activation
from perceptual_lib.evaluation.rows import draw_subset, layer_ranges


def activations(*sizes: int) -> list[Activation]:
    return [Activation(f"{i}", "relu", (i + 1, size, size)) for i, size in enumerate(sizes)]


def test_ranges_by_activation_and_by_stage() -> None:
    network = activations(8, 8, 4, 2, 2)
    assert layer_ranges(network, "stage") == ["0-1", "0-2", "0-4", "2-2", "2-4", "3-4"]
    assert layer_ranges(network[:3], "activation") == ["0-0", "0-1", "0-2", "1-1", "1-2", "2-2"]


def test_subsets_are_drawn_with_a_fixed_seed() -> None:
    assert draw_subset(range(100), 5) == (5, 33, 49, 53, 97)
    assert draw_subset("abc", None) == draw_subset("abc", 9) == ("a", "b", "c")
