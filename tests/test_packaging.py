"""What a clone says about itself agrees: pyproject, environment, lock, citation, contents."""

import hashlib
import lzma
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = "https://github.com/perceptual-ball/perceptual-ball"


def requirements() -> list[Requirement]:
    """Of the library and all extras; that one extra has another in it is left out."""
    extras = PROJECT["optional-dependencies"].values()
    every = [Requirement(line) for lines in (PROJECT["dependencies"], *extras) for line in lines]
    return [requirement for requirement in every if requirement.name != PROJECT["name"]]


def locked() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def needed(names: set[str]) -> dict[str, list[Requirement]]:
    """Everything installed that these packages need, with the requirements that say so."""
    found: dict[str, list[Requirement]] = {}
    extras: dict[str, set[str]] = {name: {""} for name in names}
    queue = list(names)
    while queue:
        name = queue.pop()
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in extras[name]):
                continue
            child = canonicalize_name(requirement.name)
            found.setdefault(child, []).append(requirement)
            wanted = {"", *requirement.extras}
            if not wanted <= extras.get(child, set()):
                extras[child] = extras.get(child, set()) | wanted
                queue.append(child)
    return found


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_a_dependency_is_bounded_on_both_sides_and_locked_within(requirement: Requirement) -> None:
    signs = {specifier.operator for specifier in requirement.specifier}
    assert signs in ({">=", "<"}, {"=="})
    assert locked()[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_lock_covers_what_the_dependencies_need() -> None:
    lock = locked()
    for name, reasons in needed({canonicalize_name(requirement.name) for requirement in requirements()}).items():
        assert name in lock
        for reason in reasons:
            assert lock[name] in reason.specifier, reason


def test_conda_users_get_what_pip_users_get() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["--constraint requirements.lock", "--editable .[book,test]"]}


def test_hooks_are_of_the_versions_that_are_tested() -> None:
    [local] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    hooks = [Requirement(line) for hook in local["hooks"] for line in hook["additional_dependencies"]]
    lock = locked()
    assert {hook.name for hook in hooks} == {"ruff", "nbstripout", "import-linter"}
    assert [hook for hook in hooks if hook.name in lock and lock[hook.name] not in hook.specifier] == []


def test_the_wheel_has_all_that_is_no_code(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "perceptual_lib", source / "perceptual_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys, setuptools.build_meta as build; build.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=source, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        shipped = {name for name in content.namelist() if name.startswith("perceptual_lib/")}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "perceptual_lib").rglob("*") if path.is_file()}
    assert shipped == {name for name in files if "__pycache__" not in name}
    assert {"perceptual_lib/__init__.pyi", "perceptual_lib/py.typed"} <= shipped


def test_what_is_vendored_is_what_npm_published() -> None:
    runtime = ROOT / "perceptual_lib" / "book" / "explorer" / "runtime"
    for line in (runtime / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split()
        file, packed = runtime / name, runtime / f"{name}.xz"
        content = file.read_bytes() if file.exists() else lzma.decompress(packed.read_bytes())
        assert hashlib.sha256(content).hexdigest() == expected
    version = re.search(rb"ONNX Runtime Web v([\d.]+)", (runtime / "ort.wasm.bundle.min.mjs").read_bytes())[1].decode()
    assert f"onnxruntime-web {version}," in (runtime / "LICENSE").read_text()


def test_the_citation_names_the_edition_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["version"] == PROJECT["version"]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Elliott", "Law", "Russell"]
    assert f"version = {{{PROJECT['version']}}}" in (ROOT / "book" / "cite.md").read_text(encoding="utf-8")


def test_there_is_one_address() -> None:
    assert PROJECT["urls"]["Repository"] == REPOSITORY
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["repository-code"] == REPOSITORY
    assert yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"] == REPOSITORY
    pages = [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md")]
    found = {match for page in pages for match in re.findall(r"https://github\.com/[\w-]+/[\w-]+", page.read_text())}
    assert found == {REPOSITORY}


def test_every_page_of_the_contents_exists() -> None:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [contents["root"], *(page["file"] for part in contents["parts"] for page in part["chapters"])]
    assert [name for name in names if not list(ROOT.glob(f"{name}.*"))] == []
    assert {f"notebooks/{notebook.stem}" for notebook in NOTEBOOKS} <= set(names)
