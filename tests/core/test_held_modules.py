"""The outputs of any module can be held in Eq. 5, by the module's path.

What is scripted shows no more of itself than that (jacobgil/pytorch-grad-cam#258, #531).
"""

import pytest
import torch
from stand_ins import TinyNetwork, WrittenOut
from torch import Tensor, nn

from perceptual_lib import Classifier, InputError, explain, perceptual_ball, perturbations_by_layers
from perceptual_lib.core.activations import trace
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.selection import held_layers, held_modules

SETTINGS = {"layer_weight": 50.0, "normalize_layers": True, "max_iter": 15}


class Unseen(nn.Module):
    """Of its activations none is a call that is watched."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.swish = nn.Conv2d(3, 6, 3), activation
        self.second, self.head = nn.Conv2d(6, 6, 3), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.swish(self.second(self.swish(self.first(images)))).mean((2, 3)))


def test_a_module_is_held_as_the_activation_that_it_is(images) -> None:
    """SiLU written out, held by its path in its first call, and SiLU as torch has it, which is seen."""
    expected = perceptual_ball(Unseen(nn.SiLU()).double(), images, 1, layers=0, **SETTINGS)
    found = perceptual_ball(Unseen(WrittenOut()).double(), images, 1, layers="swish", **SETTINGS)
    torch.testing.assert_close(found.delta, expected.delta)
    assert not torch.allclose(found.delta, perceptual_ball(Unseen(nn.SiLU()).double(), images, 1, (), **SETTINGS).delta)


def test_modules_beside_activations(tiny: TinyNetwork, images) -> None:
    """Indices go on counting activations: what a module returns has a place of its own."""
    with freeze(tiny):
        names = [each.name for each in trace(tiny, images)[1]]
        modules = held_modules([["norm", "relu", 2]], names, tiny)
        described = trace(tiny, images, modules)[1]
    assert modules == ("norm",)  # relu is an activation
    assert [each.name for each in described] == ["norm", "relu", "relu_1", "silu"]
    assert held_layers(["norm", 1], described) == [0, 2]
    assert held_layers(None, described) == [1, 2]
    held = perceptual_ball(tiny, images, 1, layers=["norm", 2], **SETTINGS).delta
    for other in ("norm", 2, (0, 2)):
        assert not torch.allclose(held, perceptual_ball(tiny, images, 1, layers=other, **SETTINGS).delta)
    choices = perturbations_by_layers(tiny, images, [["norm", 2], 2], 1, **SETTINGS)
    torch.testing.assert_close(choices[0].delta, held, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("idle", "there is no layer 'idle'"),
        ("pair", "returns no tensor but tuple"),
        ("log", "returns no tensor but NoneType"),
    ],
)
def test_modules_that_cannot_be_held(images, layers, message) -> None:
    class Pair(nn.Module):
        def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
            return features, features

    class Log(nn.Module):
        def forward(self, features: Tensor) -> None:
            pass

    class Network(TinyNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.pair, self.log = nn.Conv2d(3, 3, 1), Pair(), Log()

        def forward(self, images: Tensor) -> Tensor:
            self.log(images)
            return super().forward(self.pair(images)[0])

    with pytest.raises(InputError, match=message):
        perceptual_ball(Network().double(), images, layers=layers, max_iter=1)
    with pytest.raises(InputError, match="gets no tensor from its layer"):
        explain(Network().double(), images, method="grad_cam", layer=layers)


def test_the_sentence_says_what_to_do(images) -> None:
    network = Unseen(WrittenOut()).double()
    for call in (lambda: perceptual_ball(network, images), lambda: explain(network, images)):
        with pytest.raises(InputError, match="no activation .* is seen .* name modules as layers"):
            call()
    assert explain(network, images, layers="second", max_iter=2).isfinite().all()
    own = Classifier(network, input_size=(12, 12))
    with pytest.raises(InputError, match="name modules as layers"):
        _ = own.settings


class Sequences(nn.Module):
    """Tokens, of all images the first ones first, or images first."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.stem, self.mix, self.head = first, nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.stem(images).relu().flatten(2)[..., :4]  # as many as images
        tokens = tokens.permute(2, 0, 1) if self.first else tokens.permute(0, 2, 1)
        return self.head(self.mix(tokens).mean(0 if self.first else 1))


def test_what_a_held_module_returns_must_be_of_one_image_after_the_other(images) -> None:
    settings = {"layers": ["mix"], "max_iter": 4}
    with pytest.raises(InputError, match="what mix returns is not of one image after the other; give batch_size=1"):
        perceptual_ball(Sequences(True).double(), images, 1, **settings)
    expected = perceptual_ball(Sequences(False).double(), images, 1, **settings).delta
    found = perceptual_ball(Sequences(True).double(), images, 1, batch_size=1, **settings).delta
    torch.testing.assert_close(found, expected)


class Routed(nn.Module):
    """As many activations for each image, of other shapes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        step = 1 + int(images[0].std() > 0)
        return self.head(features[..., ::step].relu().mean((2, 3)))


def test_activations_whose_shape_changes_are_one_sentence() -> None:
    images = torch.full((1, 3, 8, 8), 0.5).double()
    with pytest.raises(InputError, match=r"layer 0 has shapes .*only networks that take the same path"):
        perceptual_ball(Routed().double(), images, 1, layers=0, max_iter=5)


def test_networks_that_answer_at_random_are_held_in_modules_with_a_warning(images) -> None:
    class Noisy(Unseen):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(images, 0.5, training=True))

    with pytest.warns(UserWarning, match="answers otherwise each time"):
        found = perceptual_ball(Noisy(nn.SiLU()).double(), images, 1, layers=["second"], max_iter=2)
    assert found.delta.isfinite().all()
