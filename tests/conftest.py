"""Shared by the tests: networks, photographs."""

import gc
import os
import sys
from dataclasses import replace

import pytest
import torch
from stand_ins import TinyNetwork, make_photographs

from perceptual_lib import cli, load_classifier
from perceptual_lib.core.settings import SCALE_FREE
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.methods import METHODS, explainer
from perceptual_lib.photographs.photographs import Photograph

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


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


@pytest.fixture
def photographs(tmp_path) -> list[Photograph]:
    return make_photographs(tmp_path / "photographs", 8)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process, with four steps of the optimizer; returns (status, stdout, stderr)."""
    monkeypatch.setitem(SCALE_FREE, "max_iter", 4)

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perceptual-ball", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def register(monkeypatch):
    def add(name: str, function) -> None:
        monkeypatch.setitem(METHODS, name, None)  # so that it is gone after the test
        explainer(name, source="a test")(function)

    return add


@pytest.fixture
def of_profiles(tmp_path, monkeypatch) -> list[Photograph]:
    """The photographs of every profile: eight, two of each of four classes."""
    made = make_photographs(tmp_path / "photographs", 8)
    made = [replace(photograph, target=index % 4) for index, photograph in enumerate(made)]
    monkeypatch.setattr(Profile, "load_photographs", lambda self: made)
    return made


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What needs a browser is slow. The workers of a parallel run take the longest files first, to end together: the
    first of them makes a book, beside all other tests, and the others that need it come after the slow ones, when it is
    made: they wait for nothing, and what is short is left for whoever is done first.
    """
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        asking = list(dict.fromkeys(item.path for item in items if "smoke_book" in getattr(item, "fixturenames", ())))
        turns = dict.fromkeys(slow, 1) | dict.fromkeys(asking, 2) | dict.fromkeys(asking[:1], 0)
        items.sort(key=lambda item: turns.get(item.path, 3))


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """What was imported stays, and is not looked through again and again: a tenth of the tests' time."""
    gc.freeze()
    gc.enable()
