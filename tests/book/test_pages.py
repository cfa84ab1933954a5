"""Pages on their way to the site: what they are told of the clone that they come from."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

nbformat = pytest.importorskip("nbformat")  # the unit tests can do without it

from clones import edit, small_clone  # noqa: E402

from perceptual_lib.book import pages  # noqa: E402


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b"),
        ("https://user:token@gitlab.example.org/group/sub/b/", "https://gitlab.example.org/group/sub/b"),
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@github.com/a/b", "https://github.com/a/b"),
        ("ssh://git@git.example.org:2222/a/b.git", "https://git.example.org/a/b"),
        ("/srv/git/b.git", None),
        ("../b", None),
        ("file:///srv/git/b.git", None),
        (None, None),
    ],
)
def test_the_address_of_the_repository_is_its_remotes(tmp_path: Path, remote: str | None, address: str | None) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    if remote is not None:
        subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", remote], check=True)
    assert pages.repository(tmp_path) == address


@pytest.mark.parametrize(
    ("address", "buttons"), [("https://github.com/a/b", True), ("https://gitlab.com/a/b", False), (None, False)]
)
def test_buttons_lead_to_github_alone(tmp_path: Path, address: str | None, buttons: bool) -> None:
    shutil.copy(Path(__file__).parents[2] / "_config.yml", tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "cite.md").write_text(f"It is at {pages.STAND_IN}.")
    pages._address(tmp_path, address)
    settings = yaml.safe_load((tmp_path / "_config.yml").read_text())
    assert ("repository" in settings) == ("launch_buttons" in settings) == buttons
    assert settings["html"]["use_repository_button"] == settings["html"]["use_issues_button"] == buttons
    assert (tmp_path / "book" / "cite.md").read_text() == f"It is at {address or pages.STAND_IN}."


def test_a_repository_around_a_folder_is_not_its_own(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", "https://github.com/a/b"], check=True)
    (tmp_path / "unpacked").mkdir()
    assert pages.repository(tmp_path) is not None and pages.repository(tmp_path / "unpacked") is None


def test_what_was_found_comes_first(tmp_path: Path) -> None:
    def cell(source: str, *tags: str) -> nbformat.NotebookNode:
        return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})

    title = nbformat.v4.new_markdown_cell("# A section\n\nAbout.\n\n**You will learn**\n\n- much")
    given = [cell("setup"), cell("figure", "main-figure", "hide-input"), cell("found", "findings"), cell("exercise")]
    given[1].metadata["mystnb"] = {"image": {"alt": "A picture"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[title, *given]), tmp_path / "page.ipynb")
    pages.stage_page(tmp_path / "page.ipynb", tmp_path / "staged.ipynb", tmp_path)
    staged = nbformat.read(tmp_path / "staged.ipynb", 4).cells
    first, found, figure, learn, *rest = staged
    assert first.source == "# A section\n\nAbout.\n\n" and learn.source == "**You will learn**\n\n- much"
    assert (found.source, figure.source, figure.metadata.tags) == ("found", "figure", ["remove-input"])
    assert figure.metadata.mystnb == given[1].metadata.mystnb
    assert [each.source for each in rest] == ["setup", "figure", "exercise"] and rest[1].metadata.tags == ["hide-cell"]
    assert len({each.id for each in staged}) == len(staged)


def test_a_stage_is_as_old_as_what_is_on_it(tmp_path: Path) -> None:
    """What has changed is newer than the stage before, however old its file; Sphinx goes by that."""
    clone, stage = small_clone(tmp_path), tmp_path / "stage"
    shown, prose = sorted((clone / "notebooks").glob("*.ipynb")), clone / "book" / "index.md"
    pages.fill(stage, clone, shown, [])
    before = {path: path.stat().st_mtime_ns for path in stage.rglob("*") if path.is_file()}
    edit(shown[0], "First", "Another")
    edit(prose, "cloned", "copied")
    for path in (shown[0], prose):
        os.utime(path, (0, 0))
    pages.fill(stage, clone, shown, [])
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {stage / "notebooks" / shown[0].name, stage / "book" / "index.md"}
    assert all(path.stat().st_mtime_ns > before[path] for path in changed)
