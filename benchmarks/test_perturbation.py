"""Rows 1, 2 and 6: the perturbation, its optimiser, and a study of many layers."""

import copy

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import Scale
from benchmarks.contest import Contest, Turn, floor
from benchmarks.peers import plain_perturbation, sequential_features, two_loops
from perceptual_lib import load_photographs, perceptual_ball, perturbations_by_layers
from perceptual_lib.classifiers import Classifier
from perceptual_lib.experiments.rows import layer_ranges
from perceptual_lib.lbfgs import History

VGG_LAYERS = 13  # ReLU 0 to 12


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest relative distance of images (B, ...), in the Euclidean norm."""
    return float(((ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)).max())


def test_vgg(contest: Contest, scale: Scale, vgg: Classifier) -> None:
    batch = 16 if vgg.device.type == "cuda" else scale.vgg_images
    images = vgg.preprocess([photograph.path for photograph in load_photographs(limit=batch)])
    theirs = copy.deepcopy(vgg.network).to(memory_format=torch.contiguous_format)
    relus = [index for index, layer in enumerate(theirs.features) if isinstance(layer, torch.nn.ReLU)][:VGG_LAYERS]
    features = sequential_features(theirs.features, relus)
    settings = {"layer_weight": 10_000.0, "normalise_layers": False, "max_iter": scale.vgg_steps}
    evaluations = batch * (scale.vgg_steps + 1)

    def agreement(results: dict) -> str:
        distance = apart(results["ours"].delta, results["plain way"])
        assert distance < 0.1  # rounding moves what is just at the bend of a ReLU to its other side
        return f"changes x' - x differ by {distance:.0e} of their norm"

    contest(
        "1",
        f"perturbation, VGG19bn, {VGG_LAYERS} layers held, {batch} images",
        units=evaluations,
        unit="evaluation",
        ours=lambda: perceptual_ball(vgg, images, layers=f"0-{VGG_LAYERS - 1}", **settings),
        others={
            "plain way": Turn(
                lambda: torch.cat([plain_perturbation(theirs, features, each, **settings) for each in images.split(1)]),
                about="one image at a time, torch.optim.LBFGS, two passes, weight gradients on",
            ),
            "floor": floor(vgg.network, images, forward=2 * batch, both=evaluations, sizes=[1, 2, 4]),
        },
        limits={"floor": 1.1, "plain way": 10 if vgg.device.type == "cuda" else 2.5},
        agreement=agreement,
    )


@pytest.mark.parametrize("batch", [1, 16])
def test_lite(contest: Contest, scale: Scale, lite: Classifier, photographs: Tensor, batch: int) -> None:
    steps = scale.steps if batch == 1 else scale.batch_steps
    images = photographs[:batch]
    found = perceptual_ball(lite, images, **lite.settings | {"max_iter": 1})  # some pages and code are touched first
    assert len(found.delta) == batch
    evaluations = batch * (steps + 1)
    sizes = [size for size in (1, 2, 4, 6, 8, 16) if size <= batch]
    results = contest(
        "2a" if batch == 1 else "2b",
        f"perturbation, EfficientNet-Lite0, 26 layers held, {steps} steps, batch of {batch}",
        units=evaluations,
        unit="evaluation",
        ours=lambda: perceptual_ball(lite, images, **lite.settings | {"max_iter": steps}),
        others={
            "floor": floor(lite.network, images, forward=2 * batch, both=evaluations, sizes=sizes),
        },
        limits={"floor": 1.25},
    )
    assert (results["ours"].evaluations == steps + 1).all()


@pytest.mark.parametrize("batch", [1, 8])
def test_optimiser(contest: Contest, device: torch.device, batch: int) -> None:
    """L-BFGS alone, with a full history: what one more step costs beside its evaluation."""
    size, length = 100, 3 * 224 * 224
    generator = torch.Generator().manual_seed(0)
    curvature = torch.rand(length, generator=generator).add(0.5).to(device)

    def pair() -> tuple[Tensor, Tensor]:
        step = torch.randn(batch, length, generator=generator).to(device)
        return step, step * curvature

    history = History(torch.zeros(batch, length, device=device), size)
    gradient = pair()[0]
    pairs = [pair() for _ in range(size)]
    for step, change in pairs:
        history.direction(step, change, gradient)
    buffers = torch.stack([history.steps, history.changes])
    more = [pair() for _ in range(5)]
    everything = [*pairs, *more][-size:]
    remembered = list(pairs)

    def agreement(results: dict) -> str:
        def error(name: str, pairs: list) -> float:
            exact = two_loops(
                *([each[0].double() for each in of] for of in zip(*pairs, strict=True)), gradient[0].double()
            )
            return apart(results[name][:1].double(), exact[None])

        ours, theirs = error("ours", remembered[-size:]), error("two loops", everything)
        assert ours < 1e-4
        return f"from double precision ours is {ours:.0e} of its norm away, theirs {theirs:.0e}"

    def ours() -> Tensor:
        remembered.extend(more)
        for step, change in more:
            direction = history.direction(step, change, gradient)
        return direction

    def theirs() -> Tensor:
        return torch.stack(
            [
                two_loops(
                    [step[row] for step, _ in everything], [change[row] for _, change in everything], gradient[row]
                )
                for row in range(batch)
            ]
        )

    memory = 2 * size * length * history.steps.element_size() / 1e6
    contest(
        f"2{'c' if batch == 1 else 'd'}",
        f"L-BFGS alone, history of {size}, {length} numbers, batch of {batch}; {memory:.0f} MB an image",
        units=batch * len(more),
        unit="step of an image",
        ours=ours,
        others={
            "two loops": Turn(theirs, 1 / len(more), "those of torch.optim.LBFGS"),
            "reading": Turn(lambda: [buffers.sum() for _ in more], about="the history read once, summed"),
        },
        limits={},
        agreement=agreement,
    )


def test_all_ranges(contest: Contest, scale: Scale, lite: Classifier, photographs: Tensor) -> None:
    ranges = layer_ranges(lite.activations, "stage")
    image = photographs[:1]
    settings = lite.settings | {"max_iter": scale.range_steps}
    del settings["layers"]

    def agreement(results: dict) -> str:
        pairs = zip(results["ours"], results["one by one"], strict=True)
        distance = max(apart(ours.delta, theirs.delta) for ours, theirs in pairs)
        return f"changes x' - x differ by at most {distance:.0e} of their norm"

    contest(
        "6",
        f"all {len(ranges)} ranges of stages of one image, EfficientNet-Lite0, {scale.range_steps} steps",
        units=len(ranges),
        unit="range",
        ours=lambda: perturbations_by_layers(lite, image, ranges, **settings),
        others={
            "one by one": Turn(
                lambda: [perceptual_ball(lite, image, layers=layers, **settings) for layers in ranges],
                about="a call of perceptual_ball for each range",
            ),
            "floor": floor(
                lite.network,
                image,
                forward=1 + len(ranges),
                both=1 + len(ranges) * scale.range_steps,
                sizes=[1, 2, 4, 6, 8],
            ),
        },
        limits={"one by one": 1.0},
        agreement=agreement,
    )
