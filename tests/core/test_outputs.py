"""Networks that return more than logits: what is plainly meant is taken, by everything; else there is a sentence."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from perceptual_lib import Classifier, InputError, explain, perceptual_ball
from perceptual_lib.core.saliency import class_gradient
from perceptual_lib.evaluation.insertion_deletion.protocol import insertion_deletion


@dataclass
class Output:
    """As those of Hugging Face's models."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()


Pair = namedtuple("Pair", "scores features")

RETURNS = {
    "tuple": lambda logits, features: (logits, features),
    "tuple, features first": lambda logits, features: (features, logits),
    "list of one": lambda logits, features: [logits],
    "named tuple": lambda logits, features: Pair(logits, features),
    "dict": lambda logits, features: {"out": logits, "aux": features},
    "dict by name": lambda logits, features: {"probabilities": logits.softmax(1), "logits": logits},
    "object": lambda logits, features: Output(logits, (features,)),
    "tuple with nothing": lambda logits, features: (None, logits),
}


class Returning(nn.Module):
    def __init__(self, network: nn.Module, pack) -> None:
        super().__init__()
        self.inner, self.pack = network, pack

    def forward(self, images: Tensor):
        return self.pack(self.inner(images), images.mean(1))


@pytest.mark.parametrize("pack", RETURNS.values(), ids=RETURNS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_plainly_meant_is_taken(tiny, images, pack, wrapped) -> None:
    network = Returning(tiny, pack)
    network = Classifier(network) if wrapped else network
    for method, settings in {
        "gradient": {},
        "guided_backprop": {},
        "grad_cam": {},
        "smoothgrad": {"samples": 3},
        "rise": {"samples": 8},
        "perceptual": {"layers": [0, 1], "max_iter": 2},
        "excitation_backprop": {},
    }.items():
        found = explain(network, images, method=method, **settings)
        torch.testing.assert_close(found, explain(tiny, images, method=method, **settings))
    torch.testing.assert_close(class_gradient(network, images), class_gradient(tiny, images))
    assert torch.equal(
        perceptual_ball(network, images, max_iter=1).margin, perceptual_ball(tiny, images, max_iter=1).margin
    )
    maps = images.square().mean(1)
    torch.testing.assert_close(insertion_deletion(network, images, maps), insertion_deletion(tiny, images, maps))


AMBIGUOUS = {
    "two of one kind": lambda logits, features: (logits, 2 * logits),
    "a dict of several": lambda logits, features: {"main": logits, "other": logits[:, :2]},
    "features alone": lambda logits, features: (features, features),
    "no tensor": lambda logits, features: {"label": "cat"},
    "nothing": lambda logits, features: None,
}


@pytest.mark.parametrize("pack", AMBIGUOUS.values(), ids=AMBIGUOUS)
@pytest.mark.parametrize("method", ["gradient", "perceptual", "rise", "grad_cam"])
def test_what_is_not_plain_gets_a_sentence(tiny, images, pack, method) -> None:
    with pytest.raises(InputError, match="must return a tensor of logits, not .* wrap it"):
        explain(Returning(tiny, pack), images, 0, method=method)


def test_properties_say_what_is_wrong_with_the_network(tiny) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(images)

    with pytest.raises(InputError, match="fails on a blank image .* no attribute 'head'"):
        _ = Classifier(Broken()).activations
    with pytest.raises(InputError, match="fails on a blank image"):
        _ = Classifier(Broken()).settings
