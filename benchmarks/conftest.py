"""What the rows share: networks, pictures, the scale of the work, and the table at the end.

`make bench` runs them. They assert that results agree, never that something is fast: the table says whether a goal is
reached.
"""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass

import cpuinfo
import pytest
import torch
from torch import Tensor

from benchmarks.contest import Contest
from perceptual_lib import load_classifier, load_photographs
from perceptual_lib.book.speed import format_speed, speed_table
from perceptual_lib.core.precision import computing
from perceptual_lib.networks.classifier import Classifier

CPU_THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))


@dataclass(frozen=True)
class Scale:
    """How much a row does. Seconds are told for a unit of work, so that scales can be compared."""

    rounds: int = 3
    vgg_images: int = 2
    vgg_steps: int = 10
    steps: int = 60
    batch_steps: int = 20
    games: int = 16
    masks: int = 500
    maps: int = 390
    range_steps: int = 15
    grows: int = 3
    floor_seconds: float = 3.0
    floor_batch: int = 64


SCALES = {
    "smoke": Scale(1, 1, 1, 4, 4, 2, 16, 13, 2, 2, 0.2, 1),
    "quick": Scale(),
    "gpu": Scale(3, 2, 10, 60, 60, 64, 8000, 390, 60, 3, 0.4),  # as much work as in real use, which a GPU does quickly
    "full": Scale(5, 2, 10, 60, 60, 16, 2000, 3900, 60, 4),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scale", choices=SCALES, default="quick", help="how much each row does")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(min(CPU_THREADS, os.cpu_count() or 1))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Add what the table was measured on, for its readers."""
    machine_info["speed"] = {
        "processor": cpuinfo.get_cpu_info().get("brand_raw", platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "scale": config.getoption("--scale"),
    }


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    rows = [bench.extra_info for bench in (session.benchmarks if session else ()) if "row" in bench.extra_info]
    if rows:
        terminalreporter.write_line(format_speed(speed_table(rows)))


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> Scale:
    return SCALES[request.config.getoption("--scale")]


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in full precision, rivals included: torch's default on a GPU rounds convolutions to ten bits (TF32)."""
    with computing("full", device):
        yield


@pytest.fixture
def contest(benchmark, scale: Scale) -> Contest:
    return Contest(benchmark, scale.rounds)


@pytest.fixture(scope="session")
def lite() -> Classifier:
    """The embedded network."""
    return load_classifier()


@pytest.fixture(scope="session")
def photographs(lite: Classifier) -> Tensor:
    """(16, 3, 224, 224); on a GPU (64, 3, 224, 224): the same, and three times shifted sideways."""
    images = lite.preprocess([photograph.path for photograph in load_photographs(limit=16)])
    return images if lite.device.type == "cpu" else torch.cat([images.roll(shift, 3) for shift in (0, 56, 112, 168)])


@pytest.fixture(scope="session")
def vgg() -> Classifier:
    """VGG19 with batch normalization and random weights, so that nothing need be downloaded."""
    torch.manual_seed(0)
    return load_classifier("vgg19_bn", weights="random")
