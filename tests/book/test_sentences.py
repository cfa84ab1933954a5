"""No sentence of a page can be contradicted by its own table: where outcomes turn, what is found turns with them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown

nbformat = pytest.importorskip("nbformat")  # the unit tests can do without it

from perceptual_lib import load_profile  # noqa: E402
from perceptual_lib.book.scoreboard import Verdict, scoreboard  # noqa: E402
from perceptual_lib.evaluation.games import GAMES  # noqa: E402
from perceptual_lib.evaluation.publishing import Results, load_results  # noqa: E402

ROOT = Path(__file__).parents[2]
Change = Callable[[pd.Series], pd.Series]
CHANGES: dict[str, dict[str, tuple[Change, Change]]] = {
    "change": {
        "inside": (lambda shares: shares**0.2, lambda shares: shares**5),
        "margin": (lambda margins: margins - 5, lambda margins: margins + 5),
        "size": (lambda sizes: 3 * sizes, lambda sizes: sizes.clip(upper=1) / 3),  # then none is above 8 levels
    },
    "localization": {
        "hits": (lambda hits: hits.map(np.ones_like), lambda hits: hits.map(np.zeros_like)),
    },
    "insertion_deletion": {
        "insertion": (lambda curves: curves**0.1, lambda curves: curves**10),
        "deletion": (lambda curves: curves**10, lambda curves: curves**0.1),
    },
    "pointing": {"distance": (lambda distances: 0 * distances, lambda distances: 1000 + distances)},
    "randomization": {
        "correlation": (lambda likeness: likeness * 0.01, lambda likeness: 1 - (1 - likeness) * 0.01),
        "ssim": (lambda likeness: likeness * 0.01, lambda likeness: 1 - (1 - likeness) * 0.01),
    },
}
"""By game and column: what makes a method's results much better, and much worse."""
FINDINGS = {
    "4.2-weak-localization": 1,
    "4.3-insertion-deletion": 2,
    "4.4-pointing-game": 3,
    "4.5-sanity-checks": 1,
    "5-conclusion": 4,
}
"""How many cells of a page say something of its tables alone: none may be left out unnoticed."""
NEEDS_THE_NETWORK = re.compile(r"\bclassifier\b|experiment\.maps|figures\.(image_grid|comparison)|Player\(|Explorer")
JUDGES = re.compile(
    r"\b(better|worse|best|worst|gains?|loses?|clearly|first|moves?|turns?|hardly|nearly|rare(ly)?|astray)\b"
)


def turned(run: Results, game: str, up: bool) -> Results:
    """A run in which the perceptual method does better, or worse, than it did on most photographs.

    Where it does better, the same without the perceptual term does worse, and the other way round.
    """
    table = run.table.copy()
    unit = table[run.unit]
    most = unit.isin(unit.unique()[np.random.default_rng(0).permutation(unit.nunique())[unit.nunique() // 8 :]])
    played = (table.role == "table") & (table.failure == "") & most
    for methods, well in (("perceptual", up), ("no_perceptual", not up)):
        lines = played & table.method.str.startswith(methods)
        for column, (better, worse) in CHANGES[game].items():
            table.loc[lines, column] = (better if well else worse)(table[column][lines])
    return replace(run, table=table)


def findings(path: Path, runs: dict[str, Results]) -> Iterator[str]:
    """What a notebook's cells say in Markdown of these runs, of those cells that look at tables alone."""

    def play(profile: Any, root: str, *games: str, role: str = "table") -> list[tuple[Any, list[Results]]]:
        return [
            (
                SimpleNamespace(name=game, table=runs[game].table, pictures=[], section=getattr(profile, game)),
                [runs[game]],
            )
            for game in games or GAMES
        ]

    scope: dict[str, Any] = {"display": lambda *things: None}
    profile = load_profile("demo")
    for cell in nbformat.read(path, 4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or "remove-cell" in tags or NEEDS_THE_NETWORK.search(cell.source):
            continue
        source = re.sub(r"(?m)^profile = load_profile\(profile\)$", "", cell.source)
        source = re.sub(r"(?m)^from .* import (play|figures)$", "", source)  # both are ours
        *statements, last = source.rsplit("\nMarkdown(", 1) if "\nMarkdown(" in source else [source, ""]
        scope |= {"profile": profile, "play": play, "figures": MagicMock()}
        try:
            exec("\n".join(statements), scope)
            if last:
                yield eval(f"Markdown({last}", scope | {"Markdown": Markdown}).data
        except (NameError, KeyError):  # it needs what a cell that was left out has made, or the pictures
            continue


def sentences(text: str) -> set[str]:
    """Of Markdown, without the paper's words."""
    text = re.sub(r'"[^"]*"', "", re.sub(r"\s+", " ", text.replace("\n- ", ". ").replace("**", "")))
    return {sentence.strip(" -*") for sentence in re.split(r"(?<=[a-z%)])[.;!] |(?<=[?]) ", text)}


@pytest.mark.parametrize(("name", "count"), FINDINGS.items())
def test_what_is_found_turns_with_the_outcomes(name: str, count: int, published: dict[str, Results]) -> None:
    path = ROOT / "notebooks" / f"{name}.ipynb"
    good, bad = (
        [sentences(text) for text in findings(path, {game: turned(run, game, up) for game, run in published.items()})]
        for up in (True, False)
    )
    assert len(good) == len(bad) == count and good != bad
    stayed = set.union(*good) & set.union(*bad)
    assert sorted(sentence for sentence in stayed if JUDGES.search(sentence)) == []


def test_what_networks_agree_on_is_counted(published: dict[str, Results], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three: of one all is better, of one worse, and one lacks a game, and a rival in the other."""

    def without_a_rival(run: Results) -> Results:
        return replace(run, table=run.table[run.table.method != "rise"])

    networks = {
        name: {game: turned(published[game], game, up) for game in ("change", "localization")}
        for name, up in (("one", True), ("two", False))
    }
    networks["three"] = {"localization": without_a_rival(networks["two"]["localization"])}
    monkeypatch.setattr("perceptual_lib.book.scoreboard.claims.published_networks", lambda folder: networks)
    counted, gains, _ = findings(ROOT / "notebooks" / "networks.ipynb", {})
    boards = {
        name: scoreboard({game: run.table for game, run in of_games.items()}) for name, of_games in networks.items()
    }
    said: dict[int, list[Verdict]] = {}
    for name, board in boards.items():
        for line in board[board.verdict != Verdict.NEEDS_DATA].itertuples():
            if name != "three" or "not here" not in line.measured:
                said.setdefault(line.Index, []).append(line.verdict)
    both = [set(verdicts) for verdicts in said.values() if len(verdicts) > 1]
    opposed = sum({Verdict.REPRODUCED, Verdict.NOT_REPRODUCED} <= each for each in both)
    agree = sum(len(each) == 1 for each in both)
    numbers = [int(each) for each in re.findall(r": (\d+)", counted)]
    assert numbers[:2] + numbers[3:] == [len(both), agree, opposed, len(both) - agree - opposed]
    assert min(agree, opposed) > 0 and numbers[2] == sum(each == {Verdict.UNDECIDED} for each in both)
    assert any("not here" in line for line in boards["three"].measured)
    one, two, three = gains.splitlines()
    assert "**one**: the term clearly helps on 2 of 2 measures and clearly harms on 0 of 2 measures." in one
    assert "**two**: the term clearly helps on 0 of 2 measures and clearly harms on 2 of 2 measures." in two
    assert "**three**: the term clearly helps on 0 of 1 measures" in three


VERDICTS = re.compile(
    r"\b(hardly|clearly|rare(ly)?|blind|dust|noisy|compact|gather(s|ed)?|settles|misses|ignores|noticeably|outperforms?"
    r"|nearly(?! all| the bottom)|explains? (little|nothing)|costs? too much|(much|far) (above|below|better|worse))\b",
    re.I,
)
ATTRIBUTED = re.compile(r"\bpaper|\bauthors|\bsays\b|\bclaims?\b|\{cite|\?$")
ALLOWED = {
    "A curve far above all others is not drawn": "the figure's rule",
    "where it hardly moved, the map shows a change that changed next to nothing": "a condition, and what follows",
    "With the last activations held the logits themselves can hardly move": "they are a linear function of these",
}
"""Verdicts in text that no run can change, and why no run contradicts them."""


def fixed_text(cell: Any) -> Iterator[str]:
    """What a reader sees of a cell whatever was computed: its Markdown, the caption and the alternative text."""
    if cell.cell_type == "markdown":
        yield cell.source
    about = cell.metadata.get("mystnb", {})
    yield from (about[kind][name] for kind, name in (("figure", "caption"), ("image", "alt")) if kind in about)


def test_fixed_text_leaves_the_verdicts_to_the_paper_and_to_the_tables() -> None:
    found = [
        sentence
        for path in (ROOT / "notebooks").glob("*.ipynb")
        if path.stem != "speed"  # it is of published measurements alone
        for cell in nbformat.read(path, 4).cells
        for text in fixed_text(cell)
        for sentence in sentences(re.sub(r"(?s)```.*?```|`[^`\n]*`", "", text))
        if VERDICTS.search(sentence) and not ATTRIBUTED.search(sentence)
    ]
    assert [sentence for sentence in found if not any(each in sentence for each in ALLOWED)] == []
    assert [each for each in ALLOWED if not any(each in sentence for sentence in found)] == []


@pytest.fixture(scope="module")
def published() -> dict[str, Results]:
    """The published results of some of the pictures: intervals over all take a minute."""
    runs = {game: load_results(ROOT / "results" / "imagenet-300", game) for game in GAMES}
    return {game: replace(run, table=run.table[run.table[run.unit].isin(some(run))]) for game, run in runs.items()}


def some(run: Results) -> Any:
    names = run.table[run.unit].drop_duplicates()
    return names if len(names) < 50 else names[::6]
