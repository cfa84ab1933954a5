"""The rules of excitation backprop, and what is said where there is none."""

import pytest
import torch
from torch import nn

from perceptual_lib import explain


class Head(nn.Module):
    """A linear layer, as people write one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.weight = (
            how,
            nn.Parameter(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        ways = {
            "linear": lambda: nn.functional.linear(features, self.weight),
            "weights first": lambda: (self.weight @ features[:, :, None]).squeeze(2),
            "weights last": lambda: features @ self.weight.T,
            "by elements": lambda: (features[:, None] * self.weight).sum(2),
        }
        return ways[self.how]()


@pytest.mark.parametrize("how", ["weights first", "weights last", "by elements"])
def test_excitation_passes_a_linear_layer_however_it_is_written(images: torch.Tensor, how: str) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    found, expected = (
        explain(nn.Sequential(body, Head(each)), images, 1, method="excitation_backprop", layer="0.1")
        for each in (how, "linear")
    )
    torch.testing.assert_close(found, expected)
    assert expected.any()


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_excitation_passes_resizing_by_its_positive_weights(mode: str) -> None:
    """Their Eq. 5 by hand: a linear layer from R places to one class, and a resizing matrix A (R, P) from P places."""
    torch.manual_seed(0)
    resize = nn.Upsample(scale_factor=2, mode=mode)
    network = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.ReLU(), resize, nn.Flatten(), nn.Linear(256, 2)).double()
    image = torch.randn(1, 3, 8, 8, dtype=torch.double)
    found = explain(network, image, 1, method="excitation_backprop", layer="1")
    matrix = resize(torch.eye(64, dtype=torch.double).view(64, 1, 8, 8)).reshape(64, 256).T
    low = network[:2](image).detach().flatten()
    won = (matrix @ low) * network[4].weight[1].detach().clamp(min=0)
    expected = low * (matrix.T @ torch.where(matrix @ low > 0, won / won.sum() / (matrix @ low), 0))
    torch.testing.assert_close(found.flatten(), expected)
    assert (low == 0).any() and expected.sum() == pytest.approx(1)


def test_excitation_below_0_is_said(images: torch.Tensor) -> None:
    """A difference of features has no rule: of the second its plain gradient is passed on, with its sign."""

    class Difference(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values[:, :2] - values[:, 2:]

    torch.manual_seed(0)
    head = nn.Sequential(Difference(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), head).double()
    with torch.no_grad():
        network[0].bias[:2] += 5  # so that the difference is above 0
        head[-1].weight.abs_()
    with pytest.warns(UserWarning, match="excitation below 0 .* arrives: something on the way has no rule"):
        explain(network, images, 1, method="excitation_backprop", layer="1")


def test_more_than_the_winning_probability_is_said(images: torch.Tensor) -> None:
    class Squared(nn.Module):
        """A product of features, which has no rule: its gradient is twice of what should arrive, and more."""

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values.flatten(2) @ values.flatten(2).transpose(1, 2)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Squared(), nn.Flatten(), nn.Linear(16, 5)).double()
    with torch.no_grad():
        network[-1].weight.abs_()
        network[-1].bias.zero_()
    with pytest.warns(UserWarning, match="times the winning probability arrives: something on the way has no rule"):
        explain(network, images, 1, method="excitation_backprop", layer="1")


@pytest.mark.parametrize("moved", [False, True])
def test_where_a_spatial_transformer_looks_wins_nothing(moved: bool) -> None:
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.relu, self.place = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 6)
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.relu(self.convolution(images))
            means = maps.mean((2, 3)) if moved else maps.mean((2, 3)).detach()
            grid = nn.functional.affine_grid(self.place(means).view(-1, 2, 3), maps.shape, align_corners=False)
            return self.head(nn.functional.grid_sample(maps, grid, align_corners=False))

    torch.manual_seed(0)
    network, images = Transformer().double(), torch.rand(1, 3, 16, 16, dtype=torch.double)
    found = explain(network, images, 0, method="excitation_backprop", layer="relu")
    assert found.sum() == pytest.approx(1, abs=0.01)
