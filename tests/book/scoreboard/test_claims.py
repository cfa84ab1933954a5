"""The claims as they are read, against the paper, and on the published run."""

import os
import re
import unicodedata
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from perceptual_lib.book.scoreboard import CLAIMS, Claim, Verdict, count_verdicts, scoreboard
from perceptual_lib.book.scoreboard.claims import read_claims
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.tables import paper_table

NOT_MEASURED = r"nothing: \w+ lacks (the column \w+: not measured there|(all )?ranges of .*)"  # in the exploratory run
DECIDABLE = [claim for claim in CLAIMS if claim.experiment]


@pytest.fixture
def data() -> dict:
    """What `claims.yaml` has, with two of its claims."""
    data = yaml.safe_load(files("perceptual_lib.book.scoreboard").joinpath("claims.yaml").read_text(encoding="utf-8"))
    assert len(data["claims"]) == len(CLAIMS) > 70
    entries = [entry for entry in data["claims"] if entry.get("experiment") == "pointing"][:2]
    return data | {"claims": [dict(entry) for entry in entries]}


def test_no_claim_stands_twice() -> None:
    assert len({(claim.quote, claim.asks) for claim in CLAIMS}) == len(CLAIMS)


def test_an_entry_is_a_claim(data) -> None:
    entry = {"section": "Abstract", "quote": "a", "asks": "b", "experiment": "pointing"}
    entry |= {"sample": {"name": "scores", "measure": "hits"}, "rule": {"name": "place", "ours": "perceptual"}}
    data["claims"].append(entry)
    claim = read_claims(yaml.safe_dump(data))[0]  # the abstract comes first
    assert (claim.quote, claim.paper, claim.where) == ("a", {}, {})
    assert claim.asks.startswith("share of hits") and claim.asks.endswith(": b")  # what all of an experiment ask


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"section": "4.9"}, "there is no section '4.9'; there are Abstract, 1, .*"),
        ({"experiment": "pointin"}, "there is no experiment 'pointin'; there are change, .*"),
        ({"sample": {"name": "score", "measure": "hits"}}, "there is no sample 'score'; there are scores, .*"),
        ({"sample": {"name": "scores"}}, "the sample scores: missing a required argument: 'measure'."),
        ({"sample": {"name": "_ranges", "measure": "hits"}}, "there is no sample '_ranges'.*"),
        ({"sample": {"name": "on_most_rows"}}, "there is no sample 'on_most_rows'.*"),
        ({"rule": {"name": "places"}}, "there is no rule 'places'; there are place, trend, .*"),
        ({"rule": {"ours": "perceptual"}}, "there is no rule None.*"),
        ({"rule": {"name": "place", "our": "a"}}, "the rule place: missing a required argument: 'ours'."),
        ({"rule": {"name": "trend", "rises": True}}, "the rule trend: got an unexpected keyword argument 'rises'."),
        ({"rule": {}}, "an experiment, a sample and a rule go together: give all three or none."),
        ({"experiment": ""}, "an experiment, a sample and a rule go together: give all three or none."),
        ({"qoute": "a"}, ".*unexpected keyword argument 'qoute'"),
    ],
)
def test_an_entry_that_is_wrong(data, wrong, sentence) -> None:
    data["claims"][1] |= wrong
    with pytest.raises(InputError, match=f"^claim 2, '{re.escape(data['claims'][1]['quote'])}': {sentence}$"):
        read_claims(yaml.safe_dump(data))


# Against the paper.


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    tables = {"localization": "table1", "insertion_deletion": "table2", "pointing": "table3"}
    said = [claim for claim in CLAIMS if claim.paper]
    assert len(said) > 20
    for claim in said:
        for method, number in claim.paper.items():
            assert number in paper_table(tables[claim.experiment]).loc[[method]].to_numpy(), (claim.asks, method)


def plain_text(text: str) -> str:
    """Letters, digits and signs alone: without spaces, hyphens, LaTeX's dollars and braces."""
    for name, sign in {r"\sigma": "σ", r"\lambda": "λ", r"\in": "∈", r"\approx": "≈", r"\ge": "≥"}.items():
        text = text.replace(name, sign)
    return re.sub(r"[\s\-‐–$\\{}*_]", "", unicodedata.normalize("NFKC", text)).lower()


@pytest.mark.skipif(not os.environ.get("PAPER_TEXT"), reason="PAPER_TEXT does not name the paper's text")
def test_quotes_are_the_papers_words() -> None:
    paper = plain_text(Path(os.environ["PAPER_TEXT"]).read_text(encoding="utf-8"))
    missing = [claim.quote for claim in CLAIMS if plain_text(claim.quote) not in paper]
    assert not missing


# On the published run.


def failed(table: pd.DataFrame) -> pd.DataFrame:
    measures = "distance correlation ssim margin inside area size spread largest growth near edges textured"
    results = table.columns.intersection(measures.split())
    table = table.assign(failure="RuntimeError: no map", **dict.fromkeys(results, np.nan))
    return table.assign(**dict.fromkeys(table.columns.intersection(["hits", "insertion", "deletion"]), None))


@pytest.fixture(scope="module")
def small(published) -> dict[str, pd.DataFrame]:
    """The first eight photographs or scenes of the selection and of the others, by the one name "picture"."""
    tables = {}
    for name, table in published.items():
        pictures = table["scene" if "scene" in table else "photograph"]
        few = {picture for _, names in pictures.groupby(table.selection) for picture in names.unique()[:8]}
        tables[name] = table.assign(picture=pictures)[pictures.isin(few)]
    return tables


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table[:0],
        lambda table: table[table.method == "gradient"],
        lambda table: table[table.role == "weight"],
        failed,
        lambda table: table[table.picture == table.picture.min()],
    ],
    ids=["empty", "one method", "other roles", "all failed", "one photograph"],
)
def test_what_is_not_there_needs_data(small, spoil) -> None:
    board = scoreboard({name: spoil(table) for name, table in small.items()})
    assert set(board.verdict) == {Verdict.NEEDS_DATA} and (board.n == 0).all()
    assert board.measured.str.startswith("nothing").all()


def test_no_results_at_all() -> None:
    board = scoreboard({})
    assert set(board.verdict) == {Verdict.NEEDS_DATA}
    expected = [claim.experiment and f"nothing: there are no results of {claim.experiment}" for claim in CLAIMS]
    assert board.measured.to_list() == [sentence or "nothing" for sentence in expected]


@pytest.mark.slow
def test_a_failure_costs_its_photograph_and_nothing_else(small, few_resamples) -> None:
    gone = {name: table.picture == table.picture.unique()[1] for name, table in small.items()}
    failure = {name: table.where(~gone[name], failed(table)) for name, table in small.items()}
    absence = {name: table[~gone[name]] for name, table in small.items()}
    claims = {str((claim.experiment, claim.where, claim.sample)): claim for claim in DECIDABLE}.values()
    findings = [claim.finding(absence) for claim in claims]
    assert [claim.finding(failure) for claim in claims] == findings
    assert sum(finding.n > 0 for finding in findings) > 30


def interval(differences: pd.Series) -> tuple[float, float]:
    """Of the mean, with 95 % by normal theory."""
    half = 1.96 * differences.std() / np.sqrt(len(differences))
    return differences.mean() - half, differences.mean() + half


def deletion(table: pd.DataFrame) -> pd.Series:
    """The area with the perceptual term less that without, by photograph, from the curves; below 0 is better."""
    lines = table[(table.role == "table") & (table.sigma == 0)].set_index(["photograph", "method"])
    area = lines.deletion.map(lambda curve: float(np.trapezoid(curve)) / (len(curve) - 1)).unstack()
    return (area.no_perceptual - area.perceptual).dropna()


def pointing(table: pd.DataFrame) -> pd.Series:
    """The share of hits with the perceptual term less that without, by scene, at the blurs of every other scene."""
    lines = table[(table.role == "table") & (table.scale == 1)].assign(hit=table.distance < 15)
    found = {}
    for method in ("perceptual", "no_perceptual"):
        hits = lines[lines.method == method].groupby(["scene", "sigma"]).hit.mean().unstack()
        best = {half: hits[half::2].mean().idxmax() for half in (0, 1)}
        found[method] = pd.Series({scene: row[best[1 - n % 2]] for n, (scene, row) in enumerate(hits.iterrows())})
    return found["perceptual"] - found["no_perceptual"]


def of_methods(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    return table[table.role == "table"].set_index(["photograph", "method"])[measure].unstack()


@pytest.mark.parametrize(
    ("experiment", "asks", "lead"),
    [
        ("insertion_deletion", "area under the deletion curve without blur, with the perceptual term and", deletion),
        ("pointing", ": with the perceptual term and without", pointing),
        (
            "change",
            "inside the object's boxes, with the perceptual term and without",
            lambda table: of_methods(table, "inside").perceptual - of_methods(table, "inside").no_perceptual,
        ),
        (
            "change",
            "inside the object's boxes, against their share of the picture",  # "a good job of localizing"
            lambda table: of_methods(table, "inside").perceptual - of_methods(table, "area").perceptual,
        ),
    ],
)
def test_a_verdict_is_that_of_the_numbers(
    published, experiment, asks, lead: Callable[[pd.DataFrame], pd.Series]
) -> None:
    (claim,) = (
        claim for claim in DECIDABLE if claim.experiment == experiment and asks in claim.asks and lead_only(claim)
    )
    finding, differences = claim.finding(published), lead(published[experiment])
    low, high = interval(differences)
    assert finding.verdict == (Verdict.REPRODUCED if low > 0 else Verdict.NOT_REPRODUCED if high < 0 else "undecided")
    assert finding.n == len(differences)
    found = map(float, re.search(r"a lead of (\S+) \((\S+) to ([^;]+);", finding.measured).groups())
    tolerance = 0.3 * (high - low)
    assert list(found) == pytest.approx([differences.mean(), low, high], abs=tolerance)


def lead_only(claim: Claim) -> bool:
    """Whether it is about all questions and photographs, at the original size, and not in kind."""
    return not re.search("difficult|1.5 times|in kind", claim.asks)


@pytest.mark.slow
def test_the_published_numbers_give_verdicts(published, few_resamples) -> None:
    board = scoreboard(published)
    lacking = board[(board.rule != "") & (board.verdict == Verdict.NEEDS_DATA)]
    assert lacking.measured.str.fullmatch(NOT_MEASURED).all(), lacking[["quote", "measured"]].to_csv(sep="|")
    counts = count_verdicts(board)
    assert list(counts) == list(Verdict) and sum(counts.values()) == len(CLAIMS)
    undecided = board[board.verdict == Verdict.UNDECIDED]
    assert ((undecided.needed > undecided.n) | (undecided.needed == 0)).all() and undecided.needed.any()
    assert not board.needed.drop(undecided.index).any()
