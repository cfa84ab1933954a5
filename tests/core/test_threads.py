"""Several threads, and networks whose modes are their own: nothing of one call is seen by another, or left behind."""

import threading

import pytest
import torch
from stand_ins import together
from torch import Tensor, nn

from perceptual_lib import explain, perceptual_ball
from perceptual_lib.core.activations import trace
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.precision import computing, switches


@pytest.mark.parametrize("method", ["gradient", "grad_cam", "guided_backprop", "normgrad", "perceptual"])
def test_threads_that_explain_with_one_network(tiny, images, method) -> None:
    settings = {"max_iter": 3, "layers": [0, 1]} if method == "perceptual" else {}
    expected = [explain(tiny, images * scale, method=method, **settings) for scale in (1, 2)]
    found: dict[int, list[Tensor]] = {0: [], 1: []}

    def work(number: int) -> None:
        for _ in range(15):
            found[number].append(explain(tiny, images * (number + 1), method=method, **settings))

    assert together(lambda: work(0), lambda: work(1)) == []
    for number, maps in found.items():
        for each in maps:
            torch.testing.assert_close(each, expected[number])


def test_another_network_in_another_thread_is_left_alone(tiny, images) -> None:
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).double()
    expected, done = other(images), threading.Event()

    def forward() -> None:
        while not done.is_set():
            assert torch.equal(other(images), expected)

    def look() -> None:
        try:
            with freeze(tiny):
                names = [[each.name for each in trace(tiny, images)[1]] for _ in range(60)]
            assert all(each == names[0] for each in names)
        finally:
            done.set()

    assert together(forward, look) == []


def test_statistics_of_a_network_in_training_mode(tiny, images) -> None:
    """The first to leave puts back training mode, in which the second would change what a batch norm remembers."""
    tiny.train()
    before = {name: value.clone() for name, value in tiny.state_dict().items()}

    def work() -> None:
        for _ in range(15):
            perceptual_ball(tiny, images, max_iter=2)

    assert together(work, work) == []
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert all(module.training for module in tiny.modules())


class Merging(nn.Linear):
    """As LoRA's layers: in evaluation mode the product of its small matrices is added to the weight."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__(size, classes)
        self.down, self.up = nn.Parameter(torch.randn(2, size)), nn.Parameter(torch.randn(classes, 2))
        self.merged = False

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.up.data @ self.down.data
            self.merged = not mode
        return self

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits if self.merged else logits + features @ self.down.T @ self.up.T


class MergesForGood(nn.Conv2d):
    """As RepVGG's blocks: in evaluation mode the branch beside is added to the weight once, and is gone."""

    def __init__(self) -> None:
        super().__init__(3, 8, 3)
        self.side = nn.Parameter(torch.randn(8, 3, 3, 3))

    def train(self, mode: bool = True) -> nn.Module:
        if not mode and hasattr(self, "side"):
            self.weight = nn.Parameter(self.weight.detach() + self.side.detach())
            del self.side
        return super().train(mode)


class KeepsEvaluating(nn.BatchNorm2d):
    """A batch norm that stays in evaluation mode, whatever it is told."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


def test_modes_of_their_own_are_put_back() -> None:
    torch.manual_seed(0)
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(nn.Conv2d(3, 8, 3), KeepsEvaluating(8), nn.ReLU(), nn.Dropout(), *flat, Merging(8, 5))
    network.train()
    network[3].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    perceptual_ball(network, torch.randn(2, 3, 12, 12), layers=[0], max_iter=2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert not network[-1].merged


def test_what_evaluation_merges_for_good_stays_merged() -> None:
    torch.manual_seed(0)
    network, images = (
        nn.Sequential(MergesForGood(), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5)),
        torch.randn(2, 3, 12, 12),
    )
    merged = network[0].weight + network[0].side
    for _ in range(2):
        explain(network.train(), images, 0)
        assert torch.equal(network[0].weight, merged) and not hasattr(network[0], "side")


def test_threshold_is_an_activation(images) -> None:
    for functional in (nn.Threshold(0.1, 0.0), nn.Threshold(0.1, 0.0, inplace=True)):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), functional, nn.Flatten(), nn.Linear(400, 5)).double()
        with freeze(network):
            (found,) = trace(network, images)[1]
        assert (found.name, found.function) == ("1", "threshold")


def test_the_last_of_two_threads_puts_back_what_was() -> None:
    """The second comes while the first is inside, and goes on in its precision when the first has left."""
    device, before = torch.device("cpu"), switches()
    first_left, second_in = threading.Event(), threading.Event()
    seen = []

    def second() -> None:
        with computing("tf32", device):
            seen.append(switches())
            second_in.set()
            first_left.wait()
            seen.append(switches())

    thread = threading.Thread(target=second)
    with computing("tf32", device):
        inside = switches()
        thread.start()
        second_in.wait()
    first_left.set()
    thread.join()
    assert inside != before and seen == [inside, inside] and switches() == before


def test_networks_that_share_a_part_queue(images) -> None:
    """An ensemble and one of its members: the first weight of the one is not that of the other."""
    torch.manual_seed(0)
    first, second = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)) for _ in "ab"
    )

    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, images: Tensor) -> Tensor:
            return self.first(images) + self.second(images)

    whole = Ensemble().double().train()
    before = {name: value.clone() for name, value in whole.state_dict().items()}

    def work(network: nn.Module) -> None:
        for _ in range(8):
            perceptual_ball(network, images, layers=0, max_iter=2)

    assert together(lambda: work(whole), lambda: work(second)) == []
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert all(module.training for module in whole.modules())


def test_a_network_without_modes(images) -> None:
    """Exported ones refuse to be told."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).double()
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for method, settings in {"gradient": {}, "perceptual": {"max_iter": 2}}.items():
        found, expected = (explain(each, images, 1, method=method, **settings) for each in (exported, network))
        torch.testing.assert_close(found, expected)


def test_two_threads_in_two_precisions() -> None:
    """The later one keeps its own when the earlier one leaves first, and the switches are put back by the last."""
    before, cpu = switches(), torch.device("cpu")
    with computing("full", cpu):
        full = switches()
    earlier, later = computing("tf32", cpu), computing("full", cpu)
    earlier.__enter__()
    later.__enter__()
    earlier.__exit__(None, None, None)
    assert switches() == full != before
    later.__exit__(None, None, None)
    assert switches() == before
