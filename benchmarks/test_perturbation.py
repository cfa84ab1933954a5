"""Rows 1, 2 and 6: the perturbation, its optimizer, and a study of many layers."""

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks.conftest import CPU_THREADS, Scale
from benchmarks.contest import Contest, Turn, floors, limits
from benchmarks.peers import hooked_features, plain_perturbation, sequential_features, two_loops
from benchmarks.work import measured, optimizer
from perceptual_lib import load_photographs, perceptual_ball, perturbations_by_layers
from perceptual_lib.core.history import History
from perceptual_lib.evaluation.rows import layer_ranges
from perceptual_lib.networks.classifier import Classifier

VGG_LAYERS = 13  # ReLU 0 to 12


EARLY = {"max_iter": 4}  # for comparing results: each further step amplifies rounding errors at the kinks of ReLUs


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest relative distance, in the Euclidean norm, between corresponding images (B, ...)."""
    return float(((ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)).max())


def agreed(early: float, late: float | None = None, at_most: float = 0.01) -> str:
    """A sentence on the distances after a few steps, which must be small, and after all steps."""
    assert early < at_most
    words = f"changes x' - x differ by {early:.0e} of their norm after {EARLY['max_iter']} steps"
    return words if late is None else f"{words}, by {late:.0e} after all"


def test_vgg(contest: Contest, scale: Scale, vgg: Classifier) -> None:
    batch = 16 if vgg.device.type == "cuda" else scale.vgg_images
    images = vgg.preprocess([photograph.path for photograph in load_photographs(limit=batch)])
    theirs = copy.deepcopy(vgg.network).to(memory_format=torch.contiguous_format)
    relus = [index for index, layer in enumerate(theirs.features) if isinstance(layer, nn.ReLU)][:VGG_LAYERS]
    features = sequential_features(theirs.features, relus)
    settings = {"layer_weight": 10_000.0, "normalize_layers": False, "max_iter": scale.vgg_steps}
    evaluations = batch * (scale.vgg_steps + 1)

    def ours(**more) -> Tensor:
        return perceptual_ball(vgg, images, layers=f"0-{VGG_LAYERS - 1}", **settings | more).delta

    def agreement(results: dict) -> str:
        early = apart(ours(**EARLY)[:1], plain_perturbation(theirs, features, images[:1], **settings | EARLY))
        return agreed(early, apart(results["ours"], results["plain way"]), at_most=0.1)  # random weights: many kinks

    contest(
        "1",
        f"perturbation, VGG19bn, {VGG_LAYERS} layers held, {batch} images",
        units=evaluations,
        unit="evaluation",
        ours=ours,
        others={
            "plain way": Turn(
                lambda: torch.cat([plain_perturbation(theirs, features, each, **settings) for each in images.split(1)]),
                about="one image at a time, torch.optim.LBFGS, two passes, weight gradients on",
            ),
            **floors(
                vgg.network,
                images,
                forward=2 * batch,
                both=evaluations,
                largest=batch if vgg.device.type == "cuda" else min(2 * batch, scale.floor_batch),
                seconds=scale.floor_seconds,
            ),
        },
        limits=limits(vgg.device, 1.1, 1.15) | {"plain way": 10 if vgg.device.type == "cuda" else 2.5},
        agreement=agreement,
    )


@pytest.mark.parametrize(("row", "batch"), [("2a", 1), ("2b", 16), ("2e", 64)])
def test_lite(contest: Contest, scale: Scale, lite: Classifier, photographs: Tensor, row: str, batch: int) -> None:
    if batch > len(photographs):
        pytest.skip("a batch for a GPU")
    steps = scale.steps if batch == 1 else scale.batch_steps
    images = photographs[:batch]
    evaluations = batch * (steps + 1)

    def agreement(results: dict) -> str:
        assert (results["ours"].evaluations == steps + 1).all()  # as many as the floor has passes
        settings = lite.settings | EARLY
        ours = perceptual_ball(lite, images, **settings).delta[-1:]
        theirs = copy.deepcopy(lite.network).to(memory_format=torch.contiguous_format)
        held = [module for module in theirs.modules() if isinstance(module, nn.ReLU6)][: len(settings.pop("layers"))]
        plain = plain_perturbation(theirs, hooked_features(theirs, held), images[-1:], **settings)
        return agreed(apart(ours, plain), at_most=0.01 if batch < 64 else 0.05)  # many images: some hit kinks

    contest(
        row,
        f"perturbation, EfficientNet-Lite0, 26 layers held, {steps} steps, batch of {batch}",
        units=evaluations,
        unit="evaluation",
        ours=lambda: perceptual_ball(lite, images, **lite.settings | {"max_iter": steps}),
        others=floors(
            lite.network,
            images,
            forward=2 * batch,
            both=evaluations,
            largest=min(batch, scale.floor_batch),
            seconds=scale.floor_seconds,
        ),
        limits=limits(lite.device, 1.25, 1.5),
        agreement=agreement,
    )


@pytest.mark.parametrize("batch", [1, 8])
def test_optimizer(contest: Contest, device: torch.device, batch: int) -> None:
    """L-BFGS alone, with a full history: the cost of one more step without its evaluation."""
    size, length = 100, 3 * 224 * 224
    memory = measured(optimizer, CPU_THREADS, size, batch).memory / batch / 1e6
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
    buffers = history.pairs
    more = [pair() for _ in range(5)]
    everything = [*pairs, *more][-size:]
    remembered = list(pairs)

    def of_image(row: int, pairs: list, dtype: torch.dtype) -> tuple[list[Tensor], ...]:
        steps, changes = ([each[row].to(dtype) for each in of] for of in zip(*pairs, strict=True))
        return steps, changes, [1 / change.dot(step) for step, change in zip(steps, changes, strict=True)]

    by_image = [of_image(row, everything, torch.float32) for row in range(batch)]

    def agreement(results: dict) -> str:
        def error(name: str, pairs: list) -> float:
            exact = two_loops(*of_image(0, pairs, torch.float64), gradient[0].double())
            return apart(results[name][:1].double(), exact[None])

        ours, theirs = error("ours", remembered[-size:]), error("two loops", everything)
        assert max(ours, theirs) < 1e-4
        return f"from double precision ours is {ours:.0e} of its norm away, theirs {theirs:.0e}"

    def ours() -> Tensor:
        remembered.extend(more)
        for step, change in more:
            direction = history.direction(step, change, gradient)
        return direction

    def theirs() -> Tensor:
        return torch.stack([two_loops(*each, gradient[row]) for row, each in enumerate(by_image)])

    contest(
        f"2{'c' if batch == 1 else 'd'}",
        f"L-BFGS alone, history of {size}, {length} numbers, batch of {batch}; {memory:.0f} MB an image, measured",
        units=batch * len(more),
        unit="step of an image",
        ours=ours,
        others={
            "two loops": Turn(theirs, 1 / len(more), "those of torch.optim.LBFGS, in place"),
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

    def one_by_one(ranges: list = ranges, **more) -> Tensor:
        return torch.cat([perceptual_ball(lite, image, layers=layers, **settings | more).delta for layers in ranges])

    def at_once(ranges: list = ranges, **more) -> Tensor:
        return torch.cat([each.delta for each in perturbations_by_layers(lite, image, ranges, **settings | more)])

    def agreement(results: dict) -> str:
        few = ranges[:: len(ranges) - 1]  # the first and the last
        return agreed(
            apart(at_once(few, **EARLY), one_by_one(few, **EARLY)), apart(results["ours"], results["one by one"])
        )

    contest(
        "6",
        f"all {len(ranges)} ranges of stages of one image, EfficientNet-Lite0, {scale.range_steps} steps",
        units=len(ranges),
        unit="range",
        ours=at_once,
        others={
            "one by one": Turn(one_by_one, about="a call of perceptual_ball for each range"),
            **floors(
                lite.network,
                image,
                forward=1 + len(ranges),
                both=1 + len(ranges) * scale.range_steps,
                largest=min(16, scale.floor_batch),
                seconds=scale.floor_seconds,
            ),
        },
        limits={"one by one": 1.0},
        agreement=agreement,
    )
