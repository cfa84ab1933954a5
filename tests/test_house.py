"""Which room stands on which, and what the rooms below need: nothing that is not in the core's dependencies."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_packaging import PROJECT, needed

import perceptual_lib

ROOT = Path(__file__).parents[1]

EXPLAIN = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder
refused = set(REFUSED)

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in refused else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import torch
import perceptual_lib.core, perceptual_lib.methods, perceptual_lib.networks
for room in (perceptual_lib.core, perceptual_lib.methods, perceptual_lib.networks):
    for module in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        importlib.import_module(module.name)

torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)
).eval()
images = torch.rand(2, 3, 12, 12)
for method in ("gradient", "grad_cam"):
    maps = perceptual_lib.explain(network, images, method=method)
    assert maps.shape == (2, 12, 12) and maps.std() > 0
found = perceptual_lib.perceptual_ball(network, images, layers="0-0", layer_weight=1.0, max_iter=3)
assert perceptual_lib.saliency_map(found.delta, sigma=1).shape == (2, 12, 12)

for name, extra in (("load_profile", "experiments"), ("Explorer", "book")):
    try:
        getattr(perceptual_lib, name)
    except perceptual_lib.InputError as error:
        assert f"pip install 'perceptual-ball[{extra}]'" in str(error), error
    else:
        raise AssertionError(name)
try:
    perceptual_lib.explain(network, images, method="integrated_gradients")
except perceptual_lib.InputError as error:
    assert "perceptual-ball[experiments]" in str(error), error
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_explaining_needs_the_cores_dependencies_only() -> None:
    core = {Requirement(line).name for line in PROJECT["dependencies"]}
    packages = core | needed(core).keys() | {PROJECT["name"]}
    modules = metadata.packages_distributions().items()
    refused = [module for module, owners in modules if packages.isdisjoint(map(canonicalize_name, owners))]
    assert {"scipy", "pandas", "pydantic", "typer", "captum", "numba", "matplotlib", "foolbox"} <= set(refused)
    run(EXPLAIN.replace("REFUSED", repr(refused)))


def test_the_package_loads_nothing_until_it_is_used() -> None:
    run("import perceptual_lib, sys; assert not {'torch', 'numpy', 'PIL', 'typer'} & set(sys.modules)")


@pytest.mark.parametrize("name", perceptual_lib.__all__)
def test_every_name_of_the_package_is_there(name: str) -> None:
    if name == "Explorer":
        pytest.importorskip("anywidget")
    assert getattr(perceptual_lib, name).__name__ == name and name in dir(perceptual_lib)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["lint-imports", "mypy --no-incremental --cache-dir=/dev/null"])
def test_imports_go_down_and_types_are_right(tool: str) -> None:
    """Types without a cache: to fill an empty one takes half as long again."""
    name, *options = tool.split()
    command = [Path(sys.executable).with_name(name), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
