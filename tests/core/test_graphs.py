"""Recording, by a graph that calls its function again (`fake_graphs`)."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from fake_graphs import Again
from stand_ins import TinyNetwork, together
from torch import Tensor, nn

from perceptual_lib import explain, minimize, perceptual_ball
from perceptual_lib.core import batches, graphs, history, passes, perturbation
from perceptual_lib.core.graphs import ASKED, GRAPHS, Graph, Recorder, state_of
from perceptual_lib.core.passes import Kept, Passes


def add(one: Tensor, other: Tensor) -> tuple[Tensor]:
    return (one + other,)


def test_recorded_when_asked_for_a_few_times(recording) -> None:
    recorder = Recorder()
    for call in range(ASKED + 2):
        one, other = torch.full((2,), float(call)), torch.ones(2)
        assert recorder("add", add, one, other)[0].tolist() == [call + 1, call + 1]
        assert len(recording) == (call + 1 >= ASKED)
    recorder("add", add, torch.ones(3), torch.ones(3))  # another shape
    recorder("another", add, torch.ones(2), torch.ones(2))
    assert len(recording) == 1


def test_passes_are_not_replayed_while_a_hook_watches_them(recording) -> None:
    network, images = TinyNetwork().eval(), torch.rand(1, 3, 16, 16)
    for hook in (network.register_forward_hook(lambda *_: None), None):
        perceptual_ball(network, images, 1, max_iter=10)
        assert bool(Kept.networks[network].record.graphs) == (hook is None)
        if hook:
            hook.remove()


def test_inputs_that_are_there_already_are_not_copied(recording) -> None:
    recorder = Recorder()
    fixed = torch.ones(2)
    for call in range(5):
        recorder("add", add, torch.full((2,), float(call)), fixed)
    (graph,) = recording
    versions = [each._version for each in graph.inputs]
    recorder("add", add, torch.zeros(2), fixed)
    assert [each._version for each in graph.inputs] == [versions[0] + 1, versions[1]]
    fixed.mul_(3)  # written since
    assert recorder("add", add, torch.zeros(2), fixed)[0].tolist() == [3, 3]


def test_outputs_are_the_callers(recording) -> None:
    recorder = Recorder()
    answers = [recorder("add", add, torch.full((1,), float(call)), torch.zeros(1))[0] for call in range(6)]
    assert torch.cat(answers).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_oldest_graph_gives_way(recording) -> None:
    recorder = Recorder()
    for size in range(1, GRAPHS + 3):
        for _ in range(ASKED):
            recorder("add", add, torch.ones(size), torch.ones(size))
    assert len(recorder.graphs) == GRAPHS
    assert min(key[-1][0][0][0] for key in recorder.graphs) == 3


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted"), torch.cuda.OutOfMemoryError("no memory")])
def test_what_cannot_be_recorded_is_called(recording, monkeypatch, error) -> None:
    def fail(*_) -> Graph:
        raise error

    monkeypatch.setattr(Recorder, "make", fail)
    recorder, calls = Recorder(), []

    def counted(*inputs: Tensor) -> tuple[Tensor]:
        calls.append(0)
        return add(*inputs)

    with pytest.warns(UserWarning, match="operation not permitted") if "memory" not in str(error) else nullcontext():
        for _ in range(6):
            assert recorder("add", counted, torch.ones(1), torch.ones(1))[0].item() == 2
    assert len(calls) == 6


def small(network: nn.Module, images: Tensor, **settings):
    return perceptual_ball(network, images, layers=[0, 1], layer_weight=1.0, **settings)


def test_a_search_is_the_same_recorded(recording, tiny, images, monkeypatch) -> None:
    """In the first call, where it is recorded on the way, and in the second, where it is there."""
    calls = [small(tiny, images, max_iter=30) for _ in range(3)]
    assert recording and sum(graph.replays for graph in recording) > 50
    made = len(recording)
    small(tiny, images, max_iter=30)
    assert len(recording) <= made + 1  # the last pass, asked for once in a call
    monkeypatch.undo()
    plain = small(tiny, images, max_iter=30)
    for found in calls:
        torch.testing.assert_close(found.delta, plain.delta, rtol=1e-6, atol=1e-9)
        assert torch.equal(found.evaluations, plain.evaluations) and torch.equal(found.converged, plain.converged)


CHANGES = {
    "weights": lambda network: network.first.weight.data.mul_(1.5),  # which no counter sees
    "module": lambda network: setattr(network, "second", nn.Conv2d(8, 8, 3, padding=1).double()),
    "hook": lambda network: network.first.register_forward_hook(lambda module, inputs, output: 1.5 * output),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_has_changed_is_recorded_anew(recording, tiny, images, change, monkeypatch) -> None:
    class Frozen(Again):
        """As a graph: its function has the network's answers of when it was recorded."""

        def record(self, function, stream, pools):
            outputs = super().record(function, stream, pools)
            replay, weights = self.replay, [each.detach().clone() for each in tiny.parameters()]
            modules, its_hooks = dict(tiny.named_children()), dict(tiny.first._forward_hooks)

            def as_it_was() -> None:
                now = [each.detach().clone() for each in tiny.parameters()]
                children, hooks = dict(tiny.named_children()), dict(tiny.first._forward_hooks)
                try:
                    for name, module in modules.items():
                        setattr(tiny, name, module)
                    tiny.first._forward_hooks.clear()
                    tiny.first._forward_hooks.update(its_hooks)
                    for own, old in zip(tiny.parameters(), weights, strict=True):
                        own.data.copy_(old)
                    replay()
                finally:
                    for own, new in zip(tiny.parameters(), now, strict=True):
                        own.data.copy_(new)
                    for name, module in children.items():
                        setattr(tiny, name, module)
                    tiny.first._forward_hooks.clear()
                    tiny.first._forward_hooks.update(hooks)

            self.replay = as_it_was
            return outputs

    monkeypatch.setattr(Recorder, "make", Frozen)
    for _ in range(2):
        before = small(tiny, images, max_iter=8)
    CHANGES[change](tiny)
    found = small(tiny, images, max_iter=8)
    monkeypatch.undo()
    expected = small(tiny, images, max_iter=8)
    torch.testing.assert_close(found.delta, expected.delta, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(found.delta, before.delta, rtol=1e-3)


class More(TinyNetwork):
    """An attribute decides what it computes."""

    more = False

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.relu() if self.more else images)


def test_a_network_that_has_changed_so_that_it_fails_is_asked_again(recording, images) -> None:
    """What is kept knows too few activations: an error that is not the network's."""
    network = More().double()
    for _ in range(3):
        small(network, images, max_iter=8)
    network.more = True
    found = perceptual_ball(network, images, layers=[0, 1], max_iter=8, margin_target=-3.0)
    Kept.networks.clear()
    expected = perceptual_ball(network, images, layers=[0, 1], max_iter=8, margin_target=-3.0)
    torch.testing.assert_close(found.delta, expected.delta, rtol=1e-6, atol=1e-9)


def test_what_is_written_over_is_not_left_to_a_branch(recording, tiny, images) -> None:
    perceptual_ball(tiny, images, layers=[0, 1, 2], max_iter=8)
    (kept,) = Kept.networks.values()
    assert kept.overwritten == {2}  # by a residual sum


def test_what_is_kept_goes_with_the_network(recording, images) -> None:
    network = TinyNetwork().double()
    small(network, images, max_iter=1)
    assert len(Kept.networks) == 1
    del network
    gc.collect()
    assert len(Kept.networks) == 0


@pytest.mark.parametrize("method", ["rise", "smoothgrad", "integrated_gradients", "extremal_perturbation"])
def test_methods_are_the_same_recorded(recording, tiny, images, method, monkeypatch) -> None:
    """Also of other images, by what the first call has recorded."""
    settings = {
        "rise": {"samples": 40, "batch_size": 4},
        "smoothgrad": {"samples": 30},
        "integrated_gradients": {"steps": 30},
        "extremal_perturbation": {"steps": 12},
    }[method]
    monkeypatch.setattr("perceptual_lib.methods.gradients.full_batch", lambda *_: 8)
    batches = images, images.flip(0, 3), images * 0.5
    found = [explain(tiny, each, method=method, **settings) for each in batches]
    assert any(graph.replays > 1 for graph in recording)
    for module in (graphs, history, passes, perturbation):
        monkeypatch.setattr(module, "records", lambda device: False)
    for each, maps in zip(batches, found, strict=True):
        torch.testing.assert_close(maps, explain(tiny, each, method=method, **settings), rtol=1e-9, atol=1e-12)


def test_one_network_in_two_threads(recording, tiny, images) -> None:
    recorder = Recorder()
    answers: dict[int, list[float]] = {}

    def work(number: int) -> None:
        own = torch.full((1,), float(number))
        answers[number] = [recorder("add", add, torch.full((1,), 10.0 * call), own)[0].item() for call in range(200)]

    assert together(lambda: work(1), lambda: work(2)) == []
    for number in (1, 2):
        assert answers[number] == [10 * call + number for call in range(200)]


def test_lack_of_memory_frees_what_is_kept(recording, tiny, images) -> None:
    for _ in range(2):
        small(tiny, images, max_iter=5)
    assert any(kept.record.graphs for kept in Kept.networks.values())
    held = []

    def solve(rows: Tensor):
        held.append(any(kept.record.graphs for kept in Kept.networks.values()))
        if len(held) <= 2:
            raise torch.cuda.OutOfMemoryError("no memory")
        return small(tiny, images[rows], max_iter=1)

    with pytest.warns(UserWarning, match="halves"):
        batches.in_halves(solve, images, len(images), len(images))
    assert held == [True, False, False, False]  # all of it again, then in halves


STATES = {
    "written": lambda network: network.first.weight.mul_(2),
    "replaced": lambda network: setattr(network.first, "weight", nn.Parameter(network.first.weight.clone())),
    "module": lambda network: setattr(network, "relu", nn.ReLU(inplace=True)),
    "forward hook": lambda network: network.first.register_forward_hook(lambda *_: None),
    "backward hook": lambda network: network.first.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda network: network.first.register_full_backward_pre_hook(lambda *_: None),
    "plain tensor": lambda network: setattr(network, "mean", torch.ones(1)),
}


@pytest.mark.parametrize("change", STATES)
def test_a_change_is_seen_from_outside(tiny, change) -> None:
    tiny.mean = torch.ones(1)
    before = state_of(tiny)
    assert state_of(tiny) == before
    with torch.no_grad():
        STATES[change](tiny)
    assert state_of(tiny) != before


def test_graphs_go_with_the_folded_weights_that_they_read(recording) -> None:
    """A network with another path for larger images: what is folded for one does not serve the other."""

    class ByFolds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images: Tensor) -> Tensor:
            value = self.convolution(images)
            return (value if images.shape[-1] > 12 else self.norm(value)).relu().mean((2, 3))

    network = ByFolds().eval().requires_grad_(False)
    with torch.no_grad():
        own = Passes(network)
        for _ in range(ASKED):
            own(torch.ones(1, 3, 12, 12))
        kept = own.kept(torch.ones(1, 3, 12, 12))
        assert kept.record.graphs and kept.folds
        folded = weakref.ref(kept.folds[0].instead["weight"])
        own(torch.ones(1, 3, 16, 16))
        assert not kept.folds and folded() is None and not kept.record.graphs


def test_memory_that_serves_again_after_inference_mode(recording) -> None:
    goal = torch.linspace(0, 1, 6).repeat(2, 1)
    for inference in (True, False, True):
        with torch.inference_mode(inference):
            found = minimize(lambda points, rows: (points - goal[rows]).square().sum(1), torch.zeros(2, 6))
        assert torch.allclose(found.points, goal, atol=1e-4)
    assert len(graphs.SPARE) == 1
