"""Networks that do with a batch, inside, what is not seen at their answers: images are not mixed, nor written over."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from perceptual_lib import explain, perceptual_ball
from perceptual_lib.core.first_look import findings
from perceptual_lib.core.saliency import relative_changes


class Views(nn.Module):
    """Its answer is each image's own; what it activates is of all images from the left, then of all from the right."""

    def __init__(self, back: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        self.back = back

    def forward(self, images: Tensor) -> Tensor:
        both = [images, images.flip(3)]
        one, other = self.body(torch.cat(both)).chunk(2) if self.back else map(self.body, both)
        return one + other


class Sequence(nn.Module):
    """A transformer's layer that has the sequence first, as PyTorch's have by default."""

    def __init__(self, first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 5)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=first)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2)  # (B, 8, L)
        order = (0, 2, 1) if self.layer.self_attn.batch_first else (2, 0, 1)
        return self.head(self.layer(tokens.permute(order)).mean(order.index(2) if order[0] else 1))


@pytest.mark.parametrize("make", [Views, Sequence])
def test_activations_of_several_images_are_not_mixed(images, make) -> None:
    network = make().double()
    with pytest.warns(UserWarning, match="not of one image after the other.*each image is explained alone") as said:
        together = perceptual_ball(network, images, layers=0, max_iter=3).delta
    assert {each.filename for each in said} == {__file__}
    alone = [perceptual_ball(network, each[None], layers=0, max_iter=3).delta for each in images]
    torch.testing.assert_close(together, torch.cat(alone))
    moved = relative_changes(network, images, together)
    torch.testing.assert_close(moved[:, 1:2], relative_changes(network, images[1:2], together[1:2]))


@pytest.mark.parametrize("make", [lambda: Views(back=False), lambda: Sequence(first=True)])
def test_the_usual_order_is_passed_together(images, make) -> None:
    network = make().double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(network, images, 1, method="gradient")
    assert not findings(network).mixed


def test_a_network_that_writes_over_its_input(images) -> None:
    class Normalizing(nn.Module):
        def __init__(self, own: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.own, self.conv, self.head = own, nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            images = images.sub_(0.5).div_(0.2) if self.own else (images - 0.5) / 0.2
            return self.head(self.conv(images).relu().mean((2, 3)))

    kept = images.clone()
    for method in ("rise", "blur_difference", "gradient", "grad_cam", "perceptual", "smoothgrad"):
        for targets in (None, 1):
            settings = {"samples": 20} if method in ("rise", "smoothgrad") else {}
            networks = Normalizing(True).double(), Normalizing(False).double()
            maps = [explain(network, images, targets, method=method, **settings) for network in networks]
            torch.testing.assert_close(*maps)
    assert torch.equal(images, kept)
