"""Row 4: RISE, and the methods that captum has, too."""

from collections.abc import Callable
from functools import partial

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from benchmarks.conftest import CPU_THREADS, Scale
from benchmarks.contest import Contest, Turn, floors, limits
from benchmarks.peers import plain_rise
from benchmarks.work import measured, rise
from perceptual_lib import explain
from perceptual_lib.core.batches import full_batch
from perceptual_lib.methods.rise import random_masks
from perceptual_lib.networks.classifier import Classifier


def test_rise(contest: Contest, scale: Scale, lite: Classifier, photographs: Tensor) -> None:
    image, count = photographs[:1], scale.masks
    with torch.no_grad():
        target = int(lite(image).argmax())
    masks = torch.cat(list(random_masks(image, count, 7, 0.5, 0, count)))

    def agreement(results: dict) -> str:
        ours, theirs = results["ours"][0], results["all masks at hand"]
        distance = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        assert distance < 1e-4
        return f"maps differ by at most {distance:.0e} of their maximum"

    contest(
        "4a",
        f"RISE, {count} masks, one image, EfficientNet-Lite0",
        units=count,
        unit="mask",
        ours=lambda: explain(lite, image, target, method="rise", samples=count),
        others={
            "all masks at hand": Turn(
                lambda: plain_rise(lite, image, target, masks, 0.5, 100),
                about="as its authors' code, in batches of 100",
            ),
            **floors(lite.network, image, forward=count, largest=scale.floor_batch, seconds=scale.floor_seconds),
        },
        limits=limits(lite.device, 1.15, 1.15),
        agreement=agreement,
    )


def test_memory_of_rise(benchmark, scale: Scale) -> None:
    counts = [max(64, scale.masks // 4), max(128, scale.masks)]
    found = {}

    def run() -> None:
        found.update({count: measured(rise, CPU_THREADS, count) for count in counts})

    benchmark.pedantic(run, rounds=1)
    few, many = (found[count].memory for count in counts)
    benchmark.extra_info.update(
        row="4b",
        title=f"peak memory of RISE, {counts[1]} masks against {counts[0]}",
        memory={str(count): each.memory for count, each in found.items()},
        limits={"growth": 1.1},
        growth=many / max(1, few),
    )


Attribution = Callable[..., Tensor]


def by_hand(method: Callable[[nn.Module, Tensor], Attribution]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Maps (B, H, W) of captum's method for the predicted classes, called as in captum's documentation."""

    def maps(network: nn.Module, images: Tensor) -> Tensor:
        with torch.no_grad():
            targets = network(images).argmax(1)
        attribute = method(network, images)
        return attribute(images.clone().requires_grad_(), target=targets).abs().amax(1).detach()

    return maps


def saliency(network: nn.Module, images: Tensor) -> Attribution:
    return captum.attr.Saliency(network).attribute


def integrated(network: nn.Module, images: Tensor) -> Attribution:
    attribute = captum.attr.IntegratedGradients(network, multiply_by_inputs=False).attribute
    return partial(attribute, n_steps=50, internal_batch_size=max(len(images), full_batch(network, images.device)))


def smooth(network: nn.Module, images: Tensor) -> Attribution:
    """SmoothGrad with as much noise as ours on average, since captum takes one standard deviation for all images."""
    ranges = images.amax((1, 2, 3)) - images.amin((1, 2, 3))
    at_once = max(1, full_batch(network, images.device) // len(images))
    return partial(
        captum.attr.NoiseTunnel(captum.attr.Saliency(network)).attribute,
        nt_type="smoothgrad",
        nt_samples=50,
        nt_samples_batch_size=at_once,
        stdevs=0.15 * ranges.mean().item(),
        abs=False,
    )


CAPTUM = {
    "gradient": ({}, by_hand(saliency)),
    "integrated_gradients": ({"steps": 50}, by_hand(integrated)),
    "smoothgrad": ({"samples": 50}, by_hand(smooth)),
}


@pytest.mark.parametrize("method", CAPTUM)
@pytest.mark.parametrize("batch", [1, 4])
def test_captum(contest: Contest, lite: Classifier, photographs: Tensor, method: str, batch: int) -> None:
    settings, theirs = CAPTUM[method]
    images = photographs[:batch]

    def agreement(results: dict) -> str:
        pair = torch.stack([results["ours"].flatten(), results["captum"].flatten()])
        correlation = torch.corrcoef(pair)[0, 1].item()
        assert correlation > (0.5 if method == "smoothgrad" else 0.999)  # the noise of smoothgrad differs
        return f"maps correlate by {correlation:.3f}"

    contest(
        f"4{'cdefgh'[2 * list(CAPTUM).index(method) + (batch > 1)]}",
        f"{method}, {batch} image{'s' if batch > 1 else ''}, EfficientNet-Lite0",
        units=batch,
        unit="image",
        ours=lambda: explain(lite, images, method=method, **settings),
        others={"captum": Turn(lambda: theirs(lite, images), about="by hand, on the same network, as many at once")},
        limits={"captum": 1.0},
        agreement=agreement,
        times=5 if method == "gradient" else 1,
    )
