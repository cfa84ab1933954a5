"""What a network keeps of what it computed while it was frozen, and what others write: all is put back."""

import copy
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from perceptual_lib import explain, perceptual_ball
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.saliency import class_gradient

IMAGES = torch.rand(2, 3, 8, 8)


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.convolution(images)).relu().mean((2, 3)))


class Caching(Body):
    """As LeViT keeps the biases of its attention in evaluation mode, by device; and its last features."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}
        self.lists: list[Tensor] = []
        self.kept: Tensor | None = None
        self.calls, self.counted = 0, dict[str, Tensor | int](calls=0)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        doubled = self.cache.setdefault("cpu", 2 * self.head.weight)
        self.kept = self.last = self.convolution(images)
        self.lists.append(self.kept)
        self.counted |= {f"call {self.calls}": self.kept, "calls": self.counted["calls"] + 1}
        return self.kept.relu().mean((2, 3)) @ doubled.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_caches_are_as_they_were(dtype: torch.dtype) -> None:
    network, images = Caching().eval().to(dtype), IMAGES.to(dtype)
    assert class_gradient(network, images, 1).dtype == torch.float32
    perceptual_ball(network, images, 1, layers=0, max_iter=2)
    assert network.cache == {} and network.lists == [] and network.kept is None and not hasattr(network, "last")
    assert network.calls > 0  # a number is the network's own,
    assert network.counted == {"calls": 0}  # but not one that says how many tensors there are beside it
    copy.deepcopy(network)
    network(images).sum().backward()
    assert network.head.weight.grad is not None and network.cache.keys() == {"cpu"}
    before = network.cache["cpu"], network.kept
    if dtype == torch.float32:  # else it is the network's own that does not fit
        class_gradient(network, images, 1)
    assert network.cache["cpu"] is before[0] and network.kept is before[1] and len(network.lists) == 1


@dataclass
class Kept:
    features: Tensor | None = None


class Collecting(Body):
    """A cache of what was computed of weights, in a collection of any kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.cache = (
            kind,
            {"ordered": OrderedDict(), "nested": ({"deep": [{}]},), "queue": deque()}.get(kind),
        )

    def doubled(self) -> Tensor:
        if self.kind == "queue":
            self.cache = self.cache or deque()
            if not self.cache:
                self.cache.append(2 * self.head.weight)
            return self.cache[0]
        if self.kind == "dataclass":
            self.cache = self.cache or Kept(2 * self.head.weight)
            return self.cache.features
        own = self.cache if self.kind == "ordered" else self.cache[0]["deep"][0]
        return own.setdefault("weight", 2 * self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images).relu().mean((2, 3)) @ self.doubled().T


@pytest.mark.parametrize("kind", ["ordered", "nested", "queue", "dataclass"])
def test_collections_are_as_they_were(kind: str) -> None:
    network = Collecting(kind).eval()
    before = copy.deepcopy(network.cache)
    class_gradient(network, IMAGES, 1)
    assert network.cache == before
    network(IMAGES).sum().backward()
    assert network.head.weight.grad is not None


def test_threads_that_share_a_part_without_weights_do_not_clear_its_cache() -> None:
    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cache: dict[torch.Size, Tensor] = {}

        def forward(self, values: Tensor) -> Tensor:
            if values.shape not in self.cache:
                self.cache[values.shape] = torch.zeros_like(values[:1]).detach()
            return values + self.cache[values.shape]

    shared, networks = Position(), []
    for _ in range(3):
        networks.append(nn.Sequential(nn.Conv2d(3, 4, 3), shared, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    with ThreadPoolExecutor(3) as threads:
        found = [threads.submit(class_gradient, network, IMAGES, 1) for network in 15 * networks]
    assert all(each.result().isfinite().all() for each in found) and shared.cache == {}


@pytest.mark.filterwarnings("ignore:Sparse")
def test_buffers_of_unusual_layouts_are_left_alone() -> None:
    network = Body().eval()
    network.head.register_buffer("mask", torch.eye(4).to_sparse())
    network.head.register_buffer("large", torch.zeros(200_000))
    before = network.head.large
    explain(network, IMAGES, 1, method="gradient")
    assert network.head.mask.is_sparse and network.head.large is before and before._version == 0


class OfTheBatch(Body):
    """Puts a batch norm of PyTorch's into training mode itself, as adaptation at test time does."""

    def forward(self, images: Tensor) -> Tensor:
        self.norm.train()
        return super().forward(images)


class Borrowing(Body):
    def forward(self, images: Tensor) -> Tensor:
        mean, variance = self.norm.running_mean, self.norm.running_var
        value = nn.functional.batch_norm(self.convolution(images), mean, variance, training=True)
        return self.head(value.relu().mean((2, 3)))


@pytest.mark.filterwarnings("ignore:the network's answer for an image depends")
@pytest.mark.parametrize("kind", [OfTheBatch, Borrowing])
def test_statistics_that_a_forward_writes_are_put_back(kind: type[Body]) -> None:
    network = kind().eval()
    before = {name: each.clone() for name, each in network.state_dict().items()}
    explain(network, IMAGES, 1, method="rise", samples=4)
    class_gradient(network, IMAGES, 1)
    assert not any(module.training for module in network.modules())
    for name, each in network.state_dict().items():
        assert torch.equal(each, before[name]), name


class Stubborn(Body):
    """Tells what modes it was asked for; is not to be trained, or frees its weights for that."""

    def __init__(self, refuses: bool) -> None:
        super().__init__()
        self.asked: list[bool] = []
        self.refuses = refuses
        self.eval()

    def train(self, mode: bool = True) -> "Stubborn":
        self.asked.append(mode)
        if mode and self.refuses:
            raise RuntimeError("for inference only")
        if mode:
            self.head.requires_grad_()
        return super().train(mode)


def test_a_network_in_evaluation_mode_is_asked_for_no_other() -> None:
    network = Stubborn(refuses=True)
    network.asked.clear()
    explain(network, IMAGES, 1, method="gradient")
    perceptual_ball(network, IMAGES, objective=lambda scores: scores[:, 0], layers=(), max_iter=2)
    assert network.asked == [] and all(each.requires_grad for each in network.parameters())


def test_what_train_does_to_weights_is_undone_and_an_error_of_it_costs_nothing() -> None:
    network = Stubborn(refuses=False).train()
    network.head.requires_grad_(False)
    explain(network, IMAGES, 1, method="gradient")
    assert network.training and not network.head.weight.requires_grad and network.convolution.weight.requires_grad
    network.refuses = True
    with pytest.raises(RuntimeError, match="for inference only"), freeze(network):
        pass
    assert not network.head.weight.requires_grad and network.convolution.weight.requires_grad


def test_weights_that_hooks_of_torch_compute_are_the_same_tensors_afterwards() -> None:
    network = Body()
    prune.l1_unstructured(network.convolution, "weight", 0.5)
    network(IMAGES)
    before = network.convolution.weight
    explain(network, IMAGES, 1, method="gradient")
    assert network.convolution.weight is before and before.requires_grad


def test_an_eval_of_its_own_is_no_mode() -> None:
    class Sampling(Body):
        def eval(self) -> "Sampling":
            return self

    network, plain = Sampling(), Body().eval()
    found = class_gradient(network, IMAGES, 1)
    torch.testing.assert_close(found, class_gradient(plain, IMAGES, 1))
    assert network.training and network.norm.num_batches_tracked == 0
