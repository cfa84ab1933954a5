"""What a clone says about itself agrees: pyproject, environment, lock, citation, contents."""

import re
import tomllib
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
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for lines in (PROJECT["dependencies"], *extras) for line in lines]


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


def test_each_bound_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r'  "[\w-]+[=<>]', line) and "# " not in line] == []


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
    extras = ",".join(PROJECT["optional-dependencies"])
    assert pip == {"pip": ["--constraint requirements.lock", f"--editable .[{extras}]"]}


def test_the_makefile_installs_the_same() -> None:
    extras = ",".join(PROJECT["optional-dependencies"])
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f'--constraint requirements.lock --editable ".[{extras}]"' in recipe


def test_the_package_data_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    package = ROOT / "perceptual_lib"
    shipped = {path for pattern in declared["*"] for path in package.rglob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == shipped


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
