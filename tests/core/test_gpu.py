"""What only a GPU shows: graphs against launches, sizes of batches, streams, memory."""

import gc

import pytest
import torch
from stand_ins import together
from torch import Tensor, nn

from perceptual_lib import explain, load_classifier, load_photographs, minimize, perceptual_ball
from perceptual_lib.core import graphs, history, lbfgs, passes, perturbation
from perceptual_lib.core.calling import with_gradient
from perceptual_lib.core.checks import ready
from perceptual_lib.core.graphs import ASKED, Recorder, release
from perceptual_lib.core.passes import Kept, Passes
from perceptual_lib.core.perturbation import Objective
from perceptual_lib.core.settings import Settings
from perceptual_lib.methods import METHODS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

NEAR = 0.1  # the relative distance of searches after four steps: at each bend of a ReLU rounding is enlarged
SETTINGS = {"layers": range(26), "layer_weight": 100.0, "normalize_layers": True}


@pytest.fixture(scope="module")
def lite():
    return load_classifier(device="cuda")


@pytest.fixture(scope="module")
def pictures(lite) -> Tensor:
    """(8, 3, 224, 224)."""
    return lite.preprocess([photograph.path for photograph in load_photographs(limit=8)])


@pytest.fixture(autouse=True)
def forgotten():
    Kept.networks.clear()
    yield
    Kept.networks.clear()
    release()


@pytest.fixture
def eager(monkeypatch):
    """Call to have nothing recorded from then on."""

    def launch() -> None:
        for module in (graphs, history, passes, perturbation):
            monkeypatch.setattr(module, "records", lambda device: False)

    return launch


def distances(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)


def relative(found: Tensor, expected: Tensor) -> float:
    return float(distances(found, expected).max())


def test_recorded_searches_are_those_launched(lite, pictures, eager) -> None:
    """On the way of the first call, and in later ones, of other images."""
    few = {"max_iter": 4}  # rounding parts the searches later
    first = [perceptual_ball(lite, images, **SETTINGS, **few) for images in (pictures, pictures.flip(0), pictures)]
    (kept,) = Kept.networks.values()
    assert kept.record.graphs and not kept.record.refused
    eager()
    for images, found in zip((pictures, pictures.flip(0), pictures), first, strict=True):
        plain = perceptual_ball(lite, images, **SETTINGS, **few)
        assert relative(found.delta, plain.delta) < NEAR
        assert torch.allclose(found.margin, plain.margin, atol=5e-2)  # of several logits before
        assert torch.equal(found.evaluations, plain.evaluations)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_one_recorded_evaluation(lite, pictures, batch) -> None:
    """Losses and gradients to rounding, away from the start, for problems that come one after the other."""
    settings = Settings(**SETTINGS)
    with ready(lite, pictures, None) as (images, _):
        own = Passes(lite.network)
        for turn in range(4):
            some = images.roll(turn, 0)[:batch]
            objective = Objective(own, some, None, [settings.layers], settings)
            for call in range(4):
                points = (
                    1e-3 * torch.randn(batch, some[0].numel(), generator=torch.Generator().manual_seed(call)).cuda()
                )
                delta, scales = points.unflatten(1, some[0].shape), objective.scales
                inputs = objective.images, objective.targets, scales, *objective.references
                expected = with_gradient(objective.loss, delta, *inputs)
                for found, plain in zip(objective.evaluate(points), expected, strict=True):
                    assert relative(found[:, None] if found.ndim == 1 else found, plain.view(batch, -1)) < 1e-3
        assert own.kept(pictures).record.graphs and not own.kept(pictures).record.refused


def test_recorded_directions(pictures) -> None:
    """L-BFGS alone on a quadratic: recorded in its own memory, given back and used again."""
    found = []
    for _ in range(4):
        curvature = torch.linspace(1, 4, 4096, device="cuda").repeat(6, 1)
        goal = torch.randn(6, 4096, generator=torch.Generator().manual_seed(0)).cuda()

        def losses(points: Tensor, rows: Tensor) -> Tensor:
            return 0.5 * (curvature[rows] * (points - goal[rows]).square()).sum(1)  # noqa: B023

        found.append(minimize(losses, torch.zeros_like(goal), max_iter=40))
        assert relative(found[-1].points, goal) < 1e-3 and found[-1].converged.all()
        (spare,) = graphs.SPARE.values()
        assert spare.record.graphs and not spare.record.refused
    assert all(torch.equal(each.evaluations, found[0].evaluations) for each in found)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_graph_has_the_precision_it_is_asked_in(lite, pictures, precision) -> None:
    found = {}
    for name in ("full", precision, "full"):
        lite.precision = name
        found[name] = perceptual_ball(lite, pictures, **SETTINGS, max_iter=4).delta
        if name == "full" and len(found) == 1:
            exact = found[name]
    lite.precision = "full"
    noise = relative(found["full"], exact)
    assert noise < NEAR and relative(found[precision], exact) > 2 * noise


def test_batches_of_few_sizes(lite, pictures, monkeypatch) -> None:
    """Images leave as they come to rest: the sizes of the batch do not show in what is found."""
    sizes = set()

    def found(**more) -> Tensor:
        return perceptual_ball(lite, pictures, max_iter=40, tolerance_map=0.3, **more).delta

    bucketed = found(callback=lambda step, rows, delta: sizes.add(len(rows)))
    for module in (lbfgs, history):
        monkeypatch.setattr(module, "full_size", lambda count, device: count)
    assert len(sizes) > 1 and sizes <= {8, 4, 2, 1}
    assert distances(bucketed, found()).median() < 0.05  # rounding may have one stop a look earlier


def test_no_transfer_in_a_step(lite, pictures) -> None:
    """Between two looks at what has ended the host waits for nothing."""
    for _ in range(2):
        perceptual_ball(lite, pictures, **SETTINGS, max_iter=8)  # recorded by now
    waits = []

    def watch(step: int, rows: Tensor, delta: Tensor) -> None:
        torch.cuda.set_sync_debug_mode("error" if 1 <= step < 8 else "default")
        waits.append(step)

    try:
        perceptual_ball(lite, pictures, **SETTINGS, max_iter=8, callback=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits == list(range(9))


def test_two_streams(lite, pictures) -> None:
    expected = perceptual_ball(lite, pictures[:2], **SETTINGS, max_iter=4).delta
    other = perceptual_ball(lite, pictures[2:4], **SETTINGS, max_iter=4).delta
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    found: list[Tensor] = []
    torch.cuda.synchronize()
    for turn in range(4):
        with torch.cuda.stream(streams[turn % 2]):
            found.append(perceptual_ball(lite, pictures[2 * (turn % 2) :][:2], **SETTINGS, max_iter=4).delta)
    torch.cuda.synchronize()
    for turn, delta in enumerate(found):
        assert relative(delta, (expected, other)[turn % 2]) < NEAR


def test_two_threads_record_and_replay_functions_of_their_own(pictures) -> None:
    recorder, answers = Recorder(), {}

    def work(number: int) -> None:
        scale = torch.full((1,), float(number), device="cuda")
        with torch.cuda.stream(torch.cuda.Stream()):
            sums = [
                recorder("scaled", lambda x, s: ((x * s).sum(),), pictures[:1] + call, scale)[0] for call in range(50)
            ]
            answers[number] = torch.stack(sums).tolist()

    torch.cuda.synchronize()
    assert together(lambda: work(1), lambda: work(2)) == []
    for number in (1, 2):
        expected = [float(((pictures[:1] + call) * number).sum()) for call in range(50)]
        assert answers[number] == pytest.approx(expected, rel=1e-4, abs=1e-1)


class Looks(nn.Sequential):
    """A network that cannot be recorded: it looks at its values."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits * 2 if float(logits.sum()) > 1e9 else logits


def test_a_network_that_cannot_be_recorded_is_run_as_it_is(pictures) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)
    network = Looks(*layers).cuda()
    own = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="recorded") as said:
        found = perceptual_ball(network, pictures, layers=[0], max_iter=20)
    assert len(said) == 1 and torch.cuda.current_stream() == own
    expected = perceptual_ball(nn.Sequential(*layers), pictures, layers=[0], max_iter=20)
    assert relative(found.delta, expected.delta) < 0.05
    torch.randn(3, device="cuda")  # the generator is not left as if something were being recorded, nor is the memory
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.empty(2**28, device="cuda")
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before


def test_a_network_that_writes_over_its_activations(pictures, eager) -> None:
    network = load_classifier("efficientnet_v2_s", weights="random", device="cuda")
    settings = {"layers": range(8), "layer_weight": 100.0, "normalize_layers": True, "max_iter": 4}
    found = [perceptual_ball(network, pictures[:2], **settings) for _ in range(2)][-1]
    (kept,) = Kept.networks.values()
    assert kept.record.graphs and kept.overwritten
    eager()
    assert relative(found.delta, perceptual_ball(network, pictures[:2], **settings).delta) < NEAR


def test_memory_goes_with_the_network(pictures) -> None:
    release()
    gc.collect()
    before = torch.cuda.memory_allocated()
    network = load_classifier(device="cuda")
    for _ in range(2):
        perceptual_ball(network, pictures, **SETTINGS, max_iter=2 * ASKED)
    (kept,) = Kept.networks.values()
    assert kept.record.graphs
    del network, kept
    gc.collect()
    assert not Kept.networks
    release()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() - before < 50e6


def test_a_changed_network_is_recorded_anew(pictures, eager) -> None:
    torch.manual_seed(0)
    network = load_classifier(device="cuda")
    for _ in range(2):
        perceptual_ball(network, pictures, **SETTINGS, max_iter=6)
    with torch.no_grad():
        network.network.classifier.weight.data.mul_(1.5)  # not counted by torch
        network.network.conv_stem.weight.data.mul_(0.5)  # and folded
    found = perceptual_ball(network, pictures, **SETTINGS, max_iter=4)
    eager()
    assert relative(found.delta, perceptual_ball(network, pictures, **SETTINGS, max_iter=4).delta) < NEAR


def test_lack_of_memory_halves_the_batch(lite, pictures) -> None:
    many = torch.cat([pictures] * 4)
    expected = perceptual_ball(lite, many, **SETTINGS, max_iter=4)
    Kept.networks.clear()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 1e9) / total)
    try:
        with pytest.warns(UserWarning, match="halves"):
            found = perceptual_ball(lite, many, **SETTINGS, max_iter=4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert relative(found.delta, expected.delta) < NEAR


CHEAP = {
    "rise": {"samples": 64, "batch_size": 16},
    "smoothgrad": {"samples": 20},
    "integrated_gradients": {"steps": 20},
    "extremal_perturbation": {"steps": 20},
    "perceptual": {"max_iter": 6},
    "perceptual_guided": {"max_iter": 6},
    "no_perceptual": {"max_iter": 6},
}


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_both_devices(lite, pictures, method, monkeypatch) -> None:
    """In full precision the GPU's maps are the CPU's to rounding, recorded or not."""
    monkeypatch.setattr("perceptual_lib.methods.gradients.full_batch", lambda *_: 8)
    settings = CHEAP.get(method, {})
    found = [explain(lite, pictures[:2], method=method, **settings).cpu() for _ in range(2)]
    expected = explain(load_classifier(device="cpu"), pictures[:2].cpu(), method=method, **settings)
    for maps in found:
        assert relative(maps, expected) < 0.1
        pair = torch.stack([maps.flatten(), expected.flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.99 or float(expected.std()) == 0
