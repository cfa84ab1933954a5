"""What is stale is made, and nothing else; a notebook that fails costs the others nothing."""

import json
import os
import re
import shutil
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

pytest.importorskip("doit")  # the unit tests can do without it

from clones import edit, small_clone, without_games, write_notebook  # noqa: E402

from perceptual_lib.book import pages, pipeline  # noqa: E402
from perceptual_lib.book.pipeline import build  # noqa: E402
from perceptual_lib.core.errors import InputError  # noqa: E402
from perceptual_lib.evaluation.games import GAMES  # noqa: E402

PREVIEW = pipeline._preview


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return small_clone(tmp_path)


@pytest.fixture(autouse=True)
def experiments(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return without_games(monkeypatch)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The two slow steps replaced: they write down what was made, and fail where a source says "raise"."""
    steps: list[str] = []

    def compute(source: Path, target: Path, *_: object) -> None:
        steps.append(source.stem)
        if "raise" in source.read_text():
            raise ValueError("out of luck\nin detail")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)

    def render(root: Path, out: Path, shown: list[Path], waiting: list[str], strict: bool) -> None:
        assert all(page.exists() for page in shown)
        steps.append(" without ".join(["site", *waiting]))
        shutil.rmtree(out / "html", ignore_errors=True)
        (out / "html").mkdir(exist_ok=True)
        (out / "html" / "index.html").write_text("")

    monkeypatch.setattr(pages, "compute", compute)
    monkeypatch.setattr(pages, "render", render)
    monkeypatch.setattr(pipeline, "_preview", lambda book: None)  # see the test of it
    monkeypatch.setattr(pipeline, "AT_ONCE", 1)  # so that their order is certain
    return steps


def rebuild(clone: Path, made: list[str], profile: str = "demo") -> list[str]:
    """What one more build makes."""
    made.clear()
    build(profile, clone)
    return list(made)


def test_a_second_build_makes_nothing(clone: Path, made: list[str]) -> None:
    assert rebuild(clone, made) == ["1-first", "2-second", "site"]
    assert rebuild(clone, made) == []


def test_a_change_makes_what_depends_on_it(clone: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    everything = rebuild(clone, made)
    edit(clone / "notebooks" / "2-second.ipynb", "# Second", "# The second")
    assert rebuild(clone, made) == ["2-second", "site"]
    edit(clone / "book" / "index.md", "# The book", "# A book")
    assert rebuild(clone, made) == ["site"]
    edit(clone / "perceptual_lib" / "__init__.py", "41", "42")
    assert rebuild(clone, made) == everything
    (clone / "perceptual_lib" / "data.csv").write_text("new")
    assert rebuild(clone, made) == everything
    monkeypatch.setattr(pipeline, "versions", lambda: {"torch": "next"})
    assert rebuild(clone, made) == ["1-first", "2-second"]
    monkeypatch.setattr(pipeline, "_versions", lambda packages: {packages[0]: "next"})
    assert rebuild(clone, made) == everything
    assert rebuild(clone, made) == []


def test_each_profile_keeps_its_results(clone: Path, made: list[str]) -> None:
    everything = rebuild(clone, made)
    assert rebuild(clone, made, "smoke") == everything
    assert rebuild(clone, made, "demo") == ["site"]


def test_a_profile_of_ones_own_is_a_dependency(clone: Path, made: list[str]) -> None:
    (own := clone / "own.yaml").write_text("description: mine\n")
    computed = [each for each in rebuild(clone, made, str(own)) if each != "site"]  # that fakes leave as it was
    assert rebuild(clone, made, str(own)) == []
    own.write_text("description: still mine\n")
    assert rebuild(clone, made, str(own)) == computed
    own.write_text("base: below.yaml\ndescription: still mine\nphotographs: {names: few.txt}\n")
    below, few = clone / "below.yaml", clone / "few.txt"
    for path, text in (
        (below, "sigma: 1\ndescription: x"),
        (few, "a"),
        (below, "sigma: 2\ndescription: x"),
        (few, "a\nb"),
    ):
        for each in (below, few):
            each.touch()
        path.write_text(text)
        assert rebuild(clone, made, str(own)) == computed
        assert rebuild(clone, made, str(own)) == []


@pytest.mark.parametrize("line", ["photographs: {source: pics}", "classifier: {weights: pics}"])
def test_what_notebooks_would_look_for_elsewhere_is_refused(clone: Path, line: str) -> None:
    (clone / "own.yaml").write_text(f"description: mine\n{line}\n")
    with pytest.raises(InputError, match="give the whole path of pics"):
        build(str(clone / "own.yaml"), clone)


def test_changed_photographs_and_weights_are_dependencies(clone: Path, made: list[str], monkeypatch) -> None:
    photographs, weights, own = clone / "photographs", clone / "my.pth", clone / "own.yaml"
    photographs.mkdir()
    for path in (photographs / "one.jpg", weights):
        path.write_bytes(b"1")
    monkeypatch.setenv("HOME", str(clone))
    own.write_text("description: mine\nphotographs: {source: ~/photographs}\nclassifier: {weights: ~/my.pth}\n")
    assert rebuild(clone, made, str(own)) == ["1-first", "2-second", "site"]
    assert rebuild(clone, made, str(own)) == []
    (photographs / "two.jpg").write_bytes(b"2")
    assert rebuild(clone, made, str(own)) == ["1-first", "2-second"]
    for changed in (photographs / "one.jpg", weights):
        os.utime(changed, (1, 1))
        assert rebuild(clone, made, str(own)) == ["1-first", "2-second"]
    assert rebuild(clone, made, str(own)) == []


def test_what_is_read_of_large_data_is_a_dependency(clone: Path, made: list[str], tmp_path: Path) -> None:
    imagenet, voc, elsewhere = tmp_path / "imagenet", tmp_path / "voc", tmp_path / "elsewhere"
    for folder in (imagenet / "train", voc / "Annotations", elsewhere):
        folder.mkdir(parents=True)
    (imagenet / "val").symlink_to(elsewhere)
    own = clone / "own.yaml"
    own.write_text(f"description: mine\nphotographs: {{source: {imagenet}}}\npointing: {{source: {voc}}}\n")
    rebuild(clone, made, str(own))
    for path, stale in (
        (voc / "Annotations" / "1.xml", True),
        (elsewhere / "1.jpg", True),
        (imagenet / "train" / "1.jpg", False),  # training images are no photographs of the profile
    ):
        path.write_bytes(b"1")
        assert rebuild(clone, made, str(own)) == (["1-first", "2-second"] if stale else []), path
        assert rebuild(clone, made, str(own)) == []


def test_a_failure_costs_the_others_nothing(clone: Path, made: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    everything = rebuild(clone, made)
    book = pipeline.Book("demo", clone)
    edit(clone / "notebooks" / "1-first.ipynb", "display(HTML", "raise display(HTML")
    assert build("demo", clone) == 1
    assert made == [*everything, "1-first", "site"]
    note = book.page(book.sources[0])
    assert not book.computed(book.sources[0]).exists() and book.computed(book.sources[1]).exists()
    assert "out of luck" in note.read_text()
    output = capsys.readouterr().out
    assert "FAILED: ValueError: out of luck" in output and "1 of 2 sections could not be computed: 1-first" in output
    assert rebuild(clone, made) == ["1-first"]  # tries again; the note is the same
    edit(clone / "notebooks" / "1-first.ipynb", "raise display(HTML", "display(HTML")
    assert rebuild(clone, made) == ["1-first", "site"]
    assert build("demo", clone) == 0 and not note.exists()


def test_one_notebook_is_made_for_whoever_edits_it(
    clone: Path, made: list[str], experiments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("demo", clone, "2-second") == 0 and experiments == []
    assert made == ["2-second", "site without 1-first"]
    note = pipeline.Book("demo", clone).page(clone / "notebooks" / "1-first.ipynb")
    assert "has not been computed yet" in note.read_text() and "[1/2] notebook 2-second" in capsys.readouterr().out
    assert rebuild(clone, made) == ["1-first", "site"] and pipeline.Book("demo", clone).waiting == []
    edit(clone / "notebooks" / "1-first.ipynb", "# First", "# The first")
    edit(clone / "notebooks" / "2-second.ipynb", "# Second", "raise # Second")
    made.clear()
    assert build("demo", clone, "2-second") == 1 and made == ["2-second", "site"]
    with pytest.raises(InputError, match="no notebook '3-third'; there are 1-first, 2-second"):
        build("demo", clone, "3-third")


def test_an_interrupted_notebook_is_not_taken_for_a_result(
    clone: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = rebuild(clone, made)
    edit(clone / "perceptual_lib" / "__init__.py", "41", "42")
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(pages, "compute", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        build("demo", clone)
    assert not (clone / "_build" / "notebooks" / "demo" / "1-first.ipynb").exists()
    assert rebuild(clone, made) == everything


def test_progress_tells_how_long_it_took_last_time(
    clone: Path, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    build("demo", clone)
    named = "notebook 2-second (profile demo)"
    assert re.search(rf"\] {re.escape(named)} \.\.\.\n +{re.escape(named)}: done in 0 s\n", capsys.readouterr().out)
    (clone / "_build" / "durations.json").write_text(json.dumps({named: 63.2}))
    edit(clone / "notebooks" / "2-second.ipynb", "# Second", "# The second")
    build("demo", clone)
    output = capsys.readouterr().out
    assert "] notebook 1-first (profile demo): up to date" in output
    assert f"] {named} ... (63 s last time)" in output


def test_bad_input_is_one_sentence(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InputError, match="run it from a clone of the repository"):
        build("demo", tmp_path_factory.mktemp("empty"))
    with pytest.raises(InputError, match="no profile 'dmeo'"):
        build("dmeo", clone)


def test_a_damaged_record_of_builds_is_one_sentence(clone: Path, made: list[str]) -> None:
    rebuild(clone, made)
    record = clone / "_build" / "doit.json"
    record.write_text(record.read_text()[:-40])  # killed while it was written
    edit(clone / "notebooks" / "2-second.ipynb", "# Second", "# The second")
    with pytest.raises(InputError, match=r"doit\.json is damaged, delete it"):
        build("demo", clone)
    record.unlink()
    assert rebuild(clone, made) == ["1-first", "2-second", "site"]


def test_games_are_computed_once_and_before_the_notebooks_that_play_them(
    clone: Path, made: list[str], experiments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_notebook(clone / "notebooks" / "1-first.ipynb", "First", ("", '[_] = play(profile, "..", "localization")'))
    assert build("demo", clone) == build("demo", clone) == 0
    assert experiments == [f"{game} of demo" for game in GAMES] and made == ["2-second", "1-first", "site"]
    ended = re.findall(r"(?m)^ +(.+?) \(profile demo\): done", capsys.readouterr().out)
    assert ended.index("notebook 1-first") > ended.index("localization")
    write_notebook(clone / "notebooks" / "1-first.ipynb", "First", ("", 'for _ in play(profile, ".."): pass'))
    (clone / "perceptual_lib" / "__init__.py").write_text("ANSWER = 42\n")
    build("demo", clone)
    assert len(experiments) == 2 * len(GAMES)
    ended = re.findall(r"(?m)^ +(.+?) \(profile demo\): done", capsys.readouterr().out)
    assert ended[-1] == "notebook 1-first"


def test_a_notebook_is_computed_beside_the_next_game(
    clone: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notebook(clone / "notebooks" / "1-first.ipynb", "First", ("", '[_] = play(profile, "..", "change")'))
    compute, complete, together = pages.compute, pipeline._complete, Barrier(2)
    monkeypatch.setattr(pipeline, "AT_ONCE", 2)

    def meet(source: Path, *arguments: Any) -> None:
        if source.stem == "1-first":
            together.wait(timeout=120)
        compute(source, *arguments)

    def meet_a_notebook(book: pipeline.Book, game: str) -> None:
        if game == "localization":
            together.wait(timeout=120)
        complete(book, game)

    monkeypatch.setattr(pages, "compute", meet)
    monkeypatch.setattr(pipeline, "_complete", meet_a_notebook)
    assert build("demo", clone) == 0 and sorted(made) == ["1-first", "2-second", "site"]


def test_games_that_cannot_be_computed_cost_the_notebooks_nothing(
    clone: Path, made: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(book: pipeline.Book, game: str) -> None:
        raise InputError(f"no photographs for {game}")

    write_notebook(clone / "notebooks" / "1-first.ipynb", "First", ("", '[_] = play(profile, "..", "localization")'))
    with monkeypatch.context() as without:
        without.setattr(pipeline, "_complete", fail)
        assert build("demo", clone) == 0
    assert "localization (profile demo) FAILED: no photographs for localization" in capsys.readouterr().out
    assert made == ["2-second", "1-first", "site"]
    build("demo", clone)
    assert "localization (profile demo): done in" in capsys.readouterr().out


def test_there_is_a_site_from_the_beginning(clone: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_preview", PREVIEW)
    write_notebook(clone / "notebooks" / "3-third.ipynb", "Third", ("", '[_] = play(profile, "..", "change")'))
    write_notebook(clone / "notebooks" / "4-fourth.ipynb", "Fourth", ("", 'for _ in play(profile, ".."): pass'))
    assert build("demo", clone) == 0
    first = ["1-first", "site without 2-second without 3-third without 4-fourth", "2-second"]
    assert made == [*first, "3-third", "site without 4-fourth", "4-fourth", "site"]
    assert not (clone / "_build" / "html" / pipeline.PREVIEW).exists()
    assert rebuild(clone, made) == []
    edit(clone / "notebooks" / "1-first.ipynb", "# First", "# The first")
    assert rebuild(clone, made) == ["1-first", "site"]
