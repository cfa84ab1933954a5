"""Shared by the tests: networks, the state that must survive an explanation, photographs, the book, a browser."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from browser import OPTIONS, chromium
from players import cascade, classifier, games, optimisation, sanity, searched, sensitivity  # noqa: F401 (fixtures)
from playwright.sync_api import Browser, sync_playwright
from runs import make_photographs
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from perceptual_lib import load_classifier
from perceptual_lib.explainers import METHODS, explainer
from perceptual_lib.images import Photograph
from perceptual_lib.pipeline import build
from perceptual_lib.profiles import Profile

ROOT = Path(__file__).parents[1]

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


class TinyNetwork(nn.Module):
    """Three activations: one in-place ReLU module called twice, and a SiLU that a residual sum overwrites."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.relu(self.norm(self.first(images)))
        second = self.relu(self.second(first))
        third = F.silu(self.second(second))
        third += first
        return self.head(third.mean((2, 3)))


@pytest.fixture
def tiny() -> TinyNetwork:
    torch.manual_seed(0)
    return TinyNetwork().double()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 12, 12, dtype=torch.double, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def embedded():
    return load_classifier("efficientnet_lite0", device="cpu")


def model_state(network: nn.Module) -> dict:
    """Everything that an explanation might leave behind on a model or in torch's globals."""
    return {
        "tensors": {name: (value.clone(), value._version) for name, value in network.state_dict().items()},
        "grads": [parameter.grad for parameter in network.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "training": [module.training for module in network.modules()],
        "inplace": [getattr(module, "inplace", None) for module in network.modules()],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for module in network.modules()
        ],
        "attributes": [sorted(vars(module)) for module in network.modules()],
        "global hooks": (len(torch_module._global_forward_hooks), len(torch_module._global_forward_pre_hooks)),
        "modes": torch.overrides._get_current_function_mode_stack(),
    }


def assert_same_state(before: dict, after: dict) -> None:
    for name, (value, version) in before.pop("tensors").items():
        assert torch.equal(value, after["tensors"][name][0]) and version == after["tensors"][name][1], name
    after.pop("tensors")
    assert before == after


@pytest.fixture
def photographs(tmp_path) -> list[Photograph]:
    return make_photographs(tmp_path / "photographs", 8)


@pytest.fixture
def register(monkeypatch):
    def add(name: str, function) -> None:
        monkeypatch.setitem(METHODS, name, None)  # so that it is gone after the test
        explainer(name, source="a test", cost="none")(function)

    return add


@pytest.fixture
def of_profiles(tmp_path, monkeypatch) -> list[Photograph]:
    """The photographs of every profile: eight, two of each of four classes."""
    made = make_photographs(tmp_path / "photographs", 8)
    made = [replace(photograph, target=index % 4) for index, photograph in enumerate(made)]
    monkeypatch.setattr(Profile, "load_photographs", lambda self: made)
    return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a browser is slow: the unit tests stay below two minutes."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is in the repository, and the book built there."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("book", "notebooks", "perceptual_lib", "results"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, clone)
    assert build("smoke", clone) == 0
    return clone


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium: install chromium, or Google's Chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()
