"""Verdicts of an exploratory and of a confirmatory run, whose rules were committed between them."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perceptual_lib.book.scoreboard import CLAIMS, Verdict, scoreboard
from perceptual_lib.book.scoreboard.claims import (
    COMMITTED,
    FURTHER,
    NETWORKS,
    RUNS,
    changed,
    decided,
    later_scoreboards,
    not_asked,
    on_shared_photographs,
    pool,
    published_networks,
    published_runs,
    read_claims,
)
from perceptual_lib.evaluation.profile import load_profile
from perceptual_lib.evaluation.publishing import WHOLE, publish

EMPTY = {name: kind() for name, kind in WHOLE.items()}  # a manifest that says nothing


def test_the_rules_are_those_that_were_committed() -> None:
    path = f"{COMMITTED}:perceptual_lib/book/scoreboard/claims.yaml"
    shown = subprocess.run(["git", "show", path], cwd=Path(__file__).parent, capture_output=True, text=True)
    if shown.returncode:
        pytest.skip("not a clone with its history")
    committed = [claim for claim in read_claims(shown.stdout) if claim.experiment]
    later = [
        claim for claim in CLAIMS if claim.sample.get("name") == "every_range"
    ]  # of the paper's own networks alone
    ours = [replace(claim, further=False) for claim in CLAIMS if claim.experiment and claim not in later]
    assert committed == ours


def again(table: pd.DataFrame, worse: float = 0.0) -> pd.DataFrame:
    """The same on other photographs or scenes; of changes with so much less inside the boxes."""
    table = table.assign(inside=table.inside - worse) if worse else table
    return table.assign(**{unit: "new " + table[unit] for unit in ("photograph", "scene") if unit in table})


def test_the_first_board_that_has_its_data_decides_a_claim() -> None:
    verdicts = {"new": [Verdict.REPRODUCED, Verdict.NEEDS_DATA, Verdict.NEEDS_DATA], "old": [Verdict.UNDECIDED] * 2}
    verdicts["old"] += [Verdict.NEEDS_DATA]
    boards = {title: pd.DataFrame({"verdict": each, "n": len(title)}) for title, each in verdicts.items()}
    found = decided(boards, {})
    assert found.verdict.tolist() == [Verdict.REPRODUCED, Verdict.UNDECIDED, Verdict.NEEDS_DATA]
    assert found.by.tolist() == ["new", "old", "new"]
    pooled = pd.DataFrame({"verdict": [Verdict.NOT_REPRODUCED] * 2, "n": 6})  # which decides what is left undecided
    unclear = pooled.assign(verdict=Verdict.UNDECIDED)
    found = decided(boards, {"unclear": unclear, "pooled": pooled, "too late": pooled})
    assert found.verdict.tolist() == [Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.NEEDS_DATA]
    assert found.by.tolist() == ["new", "pooled", "new"] and found.n.tolist() == [3, 6, 3]
    assert decided(boards, {"unclear": unclear}).by.tolist() == ["new", "old", "new"]


def test_an_exploratory_and_a_confirmatory_run(published, few_resamples, tmp_path) -> None:
    assert published_runs(tmp_path) == {}
    games = {"change": again(published["change"], 0.3), "pointing": again(published["pointing"])}
    for kind, tables in {"exploratory": published, "confirmatory": games}.items():
        for name in games:
            publish(tables[name], EMPTY | {"experiment": name}, tmp_path / RUNS[kind])
    runs = {
        kind: {name: run.table for name, run in of_kind.items()} for kind, of_kind in published_runs(tmp_path).items()
    }
    assert list(runs) == ["confirmatory", "exploratory"]
    after, before = (scoreboard(tables) for tables in runs.values())
    moved = changed(before, after)
    assert moved.section.to_list() == ["Abstract", "4"]  # whether the change lies inside the boxes
    assert set(moved.how) == {"the other way round now"}
    later = later_scoreboards(runs, {})
    both = later["both runs pooled"]
    assert len(both) > 3 and all(CLAIMS[place].pooled for place in both.index)
    assert (both.n == 2 * after.n[both.index]).all() and later["the further run"].empty
    assert later_scoreboards({"exploratory": games}, {}) == {}


def test_a_further_run_decides_by_what_was_not_asked_with_ranges(few_resamples) -> None:
    def lines(role: str, method: str, layers: str, photographs: str, error: float) -> pd.DataFrame:
        hits = [np.full(250, error == 0.0)] * len(photographs)
        about = {"role": role, "method": method, "settings": f'{{"layers": "{layers}"}}', "sigma": 0.0}
        about |= {"selection": False, "failure": ""}
        return pd.DataFrame({**about, "photograph": list(photographs), "hits": hits})

    run = [lines("table", "no_perceptual", "[]", "abcdefgh", 1.0)]
    run += [lines("range", "perceptual", layers, "ab", 1.0) for layers in ("0-2", "0-3")]
    new = pd.concat([lines("range", "perceptual", layers, "bcdefgh", 0.0) for layers in ("0-2", "0-3", "1-1")])
    tables = {"localization": pd.concat(run)}
    (found,) = not_asked(tables, {"localization": new, "pointing": new}).values()
    # Those that were not asked, with what was asked of the others: nobody else had the range 1-1.
    assert set(found.photograph) == set("cdefgh") and (found.role == "range").sum() == 12 and len(found) == 18
    board = later_scoreboards({"confirmatory": tables}, {"localization": new})["the further run"]
    assert all(CLAIMS[place].further for place in board.index) and (board.n == 6).all()
    (most,) = [place for place in board.index if CLAIMS[place].sample["name"] == "most_or_none"]
    assert board.verdict[most] == Verdict.REPRODUCED  # with layers no error, without them nothing else


def test_the_further_run_asks_what_the_confirmatory_one_did_not() -> None:
    confirmatory, further = (load_profile(name) for name in (RUNS["confirmatory"], FURTHER))
    for game in further.games:
        asked, more = getattr(confirmatory, game), getattr(further, game)
        assert more.ranges_after == asked.ranges and not more.methods
    assert [*further.games] == sorted({claim.experiment for claim in CLAIMS if claim.further})


def test_how_a_verdict_changed() -> None:
    yes, no, open_, lacking = Verdict
    pairs = {
        (lacking, yes): "measured in the later",
        (yes, lacking): None,
        (yes, no): "the other way",
        (yes, open_): "clear then, not now",
    }
    pairs |= {(open_, no): "undecided then, decided now", (no, no): None}
    columns = {"section": "1", "quote": "a", "asks": "b", "measured": "c"}
    boards = [pd.DataFrame(columns | {"n": n, "verdict": [pair[n > 9] for pair in pairs]}) for n in (9, 90)]
    found = changed(*boards).how.to_list()
    assert all(how.startswith(start) for how, start in zip(found, filter(None, pairs.values()), strict=True))


def test_only_what_has_the_same_settings_is_pooled() -> None:
    lines = {"role": "table", "method": ["rise", "center"], "settings": ["500", ""], "photograph": "a", "edges": 1.0}
    first, second = pd.DataFrame(lines), pd.DataFrame(lines | {"settings": ["6000", ""], "spread": 2.0})
    (table,) = pool({"localization": first}, {"localization": second, "change": second}).values()
    assert table.method.to_list() == ["center"] * 2 and "spread" not in table and "edges" in table


def test_of_each_network_there_is_the_run_that_decides_and_no_other(published, tmp_path) -> None:
    def write(folder: str, network: str, *games: str) -> None:
        for game in games:
            of_network = published[game].head(3).assign(method=f"{network} in {folder}")
            publish(of_network, EMPTY | {"experiment": game, "network": {"name": network}}, tmp_path / folder)

    assert published_networks(tmp_path) == {}
    write(RUNS["exploratory"], "first", "change", "localization")
    write(RUNS["confirmatory"], "first", "change")
    write(NETWORKS[0], "second", "localization")
    write(NETWORKS[1], "first", "change", "pointing")  # with other weights
    write(NETWORKS[1], "fourth", "insertion_deletion")  # of the same profile, as the paper's VGG19 and VGG16
    write("my-profile", "third", "change")  # claims.yaml does not name it
    methods = {
        network: {game: set(run.table.method) for game, run in of_games.items()}
        for network, of_games in published_networks(tmp_path).items()
    }
    assert methods == {
        "first": {"change": {f"first in {RUNS['confirmatory']}"}},
        "second": {"localization": {f"second in {NETWORKS[0]}"}},
        f"first, {NETWORKS[1]}": {game: {f"first in {NETWORKS[1]}"} for game in ("change", "pointing")},
        "fourth": {"insertion_deletion": {f"fourth in {NETWORKS[1]}"}},
    }


def test_networks_are_asked_on_the_photographs_that_all_have() -> None:
    photographs = {"one": "abcd", "two": "bcd", "three": "cde"}
    networks = {
        name: {"change": pd.DataFrame({"photograph": list(names), "inside": range(len(names))})}
        for name, names in photographs.items()
    }
    networks["one"]["localization"] = networks["one"]["change"]  # what no other has
    for place, name in enumerate(("one", "three")):
        networks[name]["pointing"] = pd.DataFrame({"scene": ["mosaic_0", f"mosaic_{place}"]})
    shared = on_shared_photographs(networks)
    assert {name: list(of_games) for name, of_games in shared.items()} == {
        "one": ["change", "pointing"],
        "two": ["change"],
        "three": ["change", "pointing"],
    }
    assert [shared[name]["change"].inside.to_list() for name in networks] == [[2, 3], [1, 2], [0, 1]]
    assert len(shared["three"]["pointing"]) == 2
