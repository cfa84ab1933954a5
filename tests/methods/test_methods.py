"""What holds for every method: shape, independence, seeds, no trace, in-place networks, targets that matter."""

import sys
from dataclasses import replace

import pytest
import torch
from stand_ins import QUICK, TinyNetwork, assert_same_state, model_state
from torch import nn

from perceptual_lib import InputError, explain, explainer, perceptual_ball
from perceptual_lib.core.saliency import class_gradient, saliency_map
from perceptual_lib.methods import METHODS, Method, find_method

NAMES = [
    "gradient", "deconvnet", "guided_backprop", "excitation_backprop", "grad_cam", "guided_grad_cam", "smoothgrad",
    "integrated_gradients", "extremal_perturbation", "rise", "normgrad", "selective_normgrad", "blur_difference",
    "center", "no_perceptual", "perceptual", "perceptual_guided",
]  # fmt: skip


def quick(network, images, targets=None, *, method: str, **settings) -> torch.Tensor:
    return explain(network, images, targets, method=method, **QUICK.get(method, {}) | settings)


def test_all_methods_of_the_tables_are_there() -> None:
    assert set(METHODS) == set(NAMES)
    assert all(method.source and method.cost() for method in METHODS.values())


@pytest.mark.parametrize("method", NAMES)
def test_maps_have_the_shape_of_the_images(tiny: TinyNetwork, images: torch.Tensor, method: str) -> None:
    before, copy = model_state(tiny), images.clone()
    maps = quick(tiny, images[..., :9], method=method)
    assert maps.shape == (4, 12, 9) and maps.isfinite().all() and maps.dtype == images.dtype
    assert not maps.requires_grad and maps.std() > 0
    assert_same_state(before, model_state(tiny))
    assert torch.equal(images, copy)


@pytest.mark.parametrize("method", NAMES)
def test_a_map_does_not_depend_on_its_neighbours(tiny: TinyNetwork, images: torch.Tensor, method: str) -> None:
    targets = torch.tensor([0, 4, 2, 1])
    together = quick(tiny, images, targets, method=method)
    for row in (0, 3):
        alone = quick(tiny, images[row : row + 1], targets[row : row + 1], method=method)
        assert torch.allclose(together[row], alone[0], atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("method", NAMES)
def test_the_target_matters(tiny: TinyNetwork, images: torch.Tensor, method: str) -> None:
    first, second = quick(tiny, images, 0, method=method), quick(tiny, images, 3, method=method)
    assert torch.equal(first, second) == (method in ("center", "blur_difference"))
    prediction = tiny.eval()(images).argmax(1)
    assert torch.equal(quick(tiny, images, method=method), quick(tiny, images, prediction, method=method))


@pytest.mark.parametrize("method", [name for name in NAMES if "seed" in METHODS[name].settings])
def test_a_seed_fixes_the_random_ones(tiny: TinyNetwork, images: torch.Tensor, method: str) -> None:
    first = quick(tiny, images, method=method, seed=1)
    torch.manual_seed(5)
    assert torch.equal(first, quick(tiny, images, method=method, seed=1))
    state = torch.get_rng_state()
    quick(tiny, images, method=method, seed=2)
    assert torch.equal(state, torch.get_rng_state())


def test_random_methods_are_random(tiny: TinyNetwork, images: torch.Tensor) -> None:
    for method in ("smoothgrad", "rise"):
        assert not torch.equal(*(quick(tiny, images, method=method, seed=seed) for seed in (1, 2)))


@pytest.mark.parametrize("method", [name for name in NAMES if name not in ("center", "blur_difference")])
def test_no_trace_after_an_error(tiny: TinyNetwork, images: torch.Tensor, method: str) -> None:
    tiny.train()
    before = model_state(tiny)
    calls, forward = [], tiny.forward

    def failing(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == (1 if METHODS[method].predicts else 2):
            raise KeyboardInterrupt
        return forward(inputs)

    tiny.forward = failing
    with pytest.raises(KeyboardInterrupt):
        quick(tiny, images, method=method)
    del tiny.forward
    assert_same_state(before, model_state(tiny))


@pytest.mark.parametrize(
    ("method", "settings"),
    [*((name, {}) for name in NAMES), ("extremal_perturbation", {"areas": (0.1, 0.3)}), ("perceptual", {"layers": 0})]
    + [("integrated_gradients", {"points": "even"})]
    + [(name, {"layer": "second"}) for name in NAMES if "layer" in METHODS[name].settings],
)
def test_passes_are_what_the_network_is_called_for(method: str, settings: dict) -> None:
    """Of a network with nothing to fold, for classes that are given; one call more looks what the network returns."""

    class Network(nn.Module):
        forwards = backwards = 0

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.forwards += len(images)
            logits = self.head(self.second(self.first(images).relu()).relu().mean((2, 3)))
            if logits.requires_grad:
                logits.register_hook(self.backward)
            return logits

        def backward(self, gradient: torch.Tensor) -> None:
            self.backwards += len(gradient)

    torch.manual_seed(0)
    network, chosen = Network(), find_method(method)
    images = torch.randn(1, 3, 12, 12)
    used = QUICK.get(method, {}) | settings
    explain(network, images, 1, method="center")  # the first call of all looks at the network
    network.forwards = 0
    explain(network, images, 1, method=method, **used)
    forward, backward = chosen.passes(used)
    assert network.forwards == forward + (not chosen.predicts)
    assert network.backwards == backward
    words = [f"{count} {name}" for name, count in (("forward", forward), ("backward", backward)) if count]
    assert replace(chosen, counts=(forward, backward)).cost() == (", ".join(words) or "none")


def test_passes_of_the_search() -> None:
    passes = {name: find_method(name).passes for name in ("no_perceptual", "perceptual", "perceptual_guided")}
    assert passes["perceptual"]({"max_iter": 60, "layers": "0-3"}) == (63, 61)
    assert passes["perceptual_guided"]({"max_iter": 60, "layers": "0-3"}) == (64, 62)
    for name in ("no_perceptual", "perceptual"):  # where nothing is held a dozen steps are enough, but not for Eq. 2
        assert passes[name]({"max_iter": 60, "layers": []}) == (15, 13)
        assert passes[name]({"max_iter": 5, "layers": []}) == (8, 6)
        assert passes[name]({"max_iter": 60, "layers": [], "multilabel": True}) == (63, 61)


def test_ours_take_the_settings_of_the_perturbation(tiny: TinyNetwork, images: torch.Tensor) -> None:
    assert [name for name in METHODS if METHODS[name].ours] == ["no_perceptual", "perceptual", "perceptual_guided"]
    settings = {
        "margin_target": -1.0,
        "layer_weight": 3.0,
        "pixel_weight": 0.5,
        "normalize_layers": False,
        "max_iter": 4,
    }
    held = perceptual_ball(tiny, images, 1, layers="0-1", **settings)
    ours = {
        name: explain(tiny, images, 1, method=name, sigma=0, layers=layers, **settings)
        for name, layers in (("no_perceptual", []), ("perceptual", "0-1"), ("perceptual_guided", "0-1"))
    }
    assert torch.equal(ours["no_perceptual"], saliency_map(perceptual_ball(tiny, images, 1, (), **settings).delta))
    assert torch.equal(ours["perceptual"], saliency_map(held.delta))
    plain = explain(tiny, images, 1, sigma=0, root=False, layers="0-1", **settings)
    assert torch.allclose(plain, held.delta.square().mean(1))
    gradient = class_gradient(tiny, images, 1)
    assert torch.equal(ours["perceptual_guided"], saliency_map(held.delta, gradient=gradient))


def test_layers_that_can_be_read_but_once(tiny: TinyNetwork, images: torch.Tensor) -> None:
    found, expected = (explain(tiny, images, 1, layers=layers, max_iter=4) for layers in (iter([0, 1]), [0, 1]))
    assert torch.equal(found, expected)


def test_ours_explain_regions(images: torch.Tensor) -> None:
    """Eq. 2, of a network that returns (B, K, h, w)."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)).double()
    expected = saliency_map(perceptual_ball(network, images, 2, (), multilabel=True, max_iter=3).delta)
    settings = {"multilabel": True, "max_iter": 3, "layer_weight": 1.0, "sigma": 0}
    assert torch.equal(explain(network, images, 2, method="no_perceptual", **settings), expected)
    assert torch.equal(explain(network, images, 2, method="perceptual", layers=(), **settings), expected)


def test_without_captum_one_sentence_says_what_to_install(tiny: TinyNetwork, images: torch.Tensor, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match="needs captum: pip install"):
        explain(tiny, images, method="integrated_gradients")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gradcam"}, "no method 'gradcam' \\(nearest: grad_cam"),
        ({"method": "lime"}, "no method 'lime'.*; there are gradient"),
        ({"method": "rise", "masks_": 3}, "rise has no setting 'masks_'; it has samples"),
        ({"method": "center", "sigma": 3}, "center has no setting 'sigma'; it has none"),
        ({"method": "grad_cam", "layer": "nowhere"}, "no layer 'nowhere'"),
        ({"method": "grad_cam", "layer": 9}, "layer 9 is out of range"),
        ({"method": "grad_cam", "layer": "head"}, "is no spatial map"),
        ({"method": "grad_cam", "layer": "unused"}, "gets no tensor from its layer 'unused'"),
        ({"method": "no_perceptual", "layers": "0-1"}, "holds no activation, but got layers '0-1'"),
        ({"method": "perceptual", "margin_target": 1.0}, "margin_target must be below 0"),
        ({"targets": 5}, "5 classes"),
        ({"targets": torch.tensor([0, 1, -1, 2]), "method": "deconvnet"}, "5 classes"),
        ({"targets": torch.tensor([1])}, "one class index, or 4 of them"),
        ({"images": torch.zeros(2, 12, 12, 3, dtype=torch.double)}, "must have shape"),
        ({"images": torch.full((2, 3, 12, 12), torch.nan, dtype=torch.double)}, "NaN"),
    ],
)
def test_bad_input_is_one_sentence(tiny: TinyNetwork, images: torch.Tensor, arguments: dict, message: str) -> None:
    tiny.unused = nn.ReLU()
    with pytest.raises(InputError, match=message) as caught:
        explain(tiny, **{"images": images} | arguments)
    assert "\n" not in str(caught.value)


PREDICTING = [name for name in NAMES if METHODS[name].predicts]


@pytest.mark.parametrize("method", PREDICTING)
def test_a_pass_of_ones_own_gives_the_prediction(tiny: TinyNetwork, images: torch.Tensor, method: str) -> None:
    with torch.no_grad():
        tiny.head.bias -= tiny.eval()(images).mean(0)  # so that not all are of one class
        predicted = tiny(images).argmax(1)
    assert len(predicted.unique()) > 1
    calls = []
    hook = tiny.register_forward_hook(lambda *call: calls.append(len(call[2])))
    quick(tiny, images, method="center")  # the first call looks at the network, and at its hooks
    calls.clear()
    maps = {targets is None: quick(tiny, images, targets, method=method) for targets in (None, predicted)}
    hook.remove()
    assert torch.equal(maps[True], maps[False])
    if method in ("gradient", "deconvnet", "guided_backprop"):
        assert calls == [len(images)] * 2  # and no other


@pytest.mark.parametrize("method", PREDICTING)
def test_what_is_no_logits_or_no_class_is_refused(tiny: TinyNetwork, images: torch.Tensor, method: str) -> None:
    with pytest.raises(InputError, match="target is out of range: the network has 5 classes"):
        quick(tiny, images, 5, method=method)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).double()
    with pytest.raises(InputError, match="must return logits"):
        quick(network, images, method=method)


@pytest.mark.parametrize("method", ["gradient", "grad_cam", "perceptual"])
def test_inside_inference_mode(tiny: TinyNetwork, images: torch.Tensor, method: str) -> None:
    expected = quick(tiny, images, 2, method=method)
    with torch.inference_mode():
        assert torch.equal(quick(tiny, images.clone(), 2, method=method), expected)
        assert torch.equal(quick(tiny, images, torch.full((4,), 2), method=method), expected)


def test_deconvnet_sees_arguments_by_name(images: torch.Tensor) -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, dtype=torch.double))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.relu(input=images * -self.scale).flatten(1)[:, :5]

    maps = explain(Keywords(), images, 1, method="deconvnet")
    assert maps[:, 0, 1].eq(1).all() and maps.sum() == 4  # whatever the sign of the input was


def test_a_method_of_ones_own(tiny: TinyNetwork, images: torch.Tensor) -> None:
    @explainer("brightness", source="a test")
    def brightness(network: nn.Module, images: torch.Tensor, targets: torch.Tensor, *, power: int = 1) -> torch.Tensor:
        return images.mean(1) ** power

    try:
        assert torch.equal(explain(tiny, images, method="brightness", power=2), images.mean(1) ** 2)

        @explainer("broken", source="a test")
        def broken(network: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return images.mean(1) / 0

        with pytest.raises(InputError, match="broken gave a map with NaN"):
            explain(tiny, images, method="broken")
    finally:
        METHODS.pop("brightness")
        METHODS.pop("broken")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("smoothgrad", {"multiplier": 4.0, "reduction": "grey"}),
        ("integrated_gradients", {"steps": 2, "points": "even"}),
        ("rise", {"samples": 6000, "cells": 8, "share": 0.1}),
        ("extremal_perturbation", {"areas": [0.1, 0.2], "steps": 5}),
        ("grad_cam", {"layer": "anywhere"}),
        ("mine", {"scale": 2.0}),
    ],
)
def test_what_a_network_would_take_passes_without_one(monkeypatch, method, settings) -> None:
    def mine(network, images, targets, *, scale: float = 1.0):
        return scale * images.sum(1) * next(network.parameters()).sum()

    monkeypatch.setitem(METHODS, "mine", Method("mine", "mine", mine, "here"))
    monkeypatch.setitem(sys.modules, "captum.attr", None)  # is missed only where maps are computed
    METHODS[method].check(settings)
