"""The paper's claims: read from `claims.yaml`, checked, and decided from the tables of experiments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from perceptual_lib.book.scoreboard.rules import RULES, Finding, MissingData, Verdict
from perceptual_lib.book.scoreboard.samples import SAMPLES
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.games import GAMES
from perceptual_lib.evaluation.publishing import Results, load_all


@dataclass(frozen=True)
class Claim:
    """Something that the paper says and a number can decide.

    Raises:
        InputError: no such experiment, sample or rule, or not with these arguments.
    """

    section: str  #: of the paper: a section, its abstract, a figure or a table
    quote: str  #: the paper's words
    asks: str
    """How the quote is read: what is measured, on what in place of the paper's data; or what measuring would take."""
    experiment: str = ""  #: whose table decides; "" where nothing can be measured
    where: Mapping[str, Any] = field(default_factory=dict)  #: lines that count: column -> its value or list of values
    sample: Mapping[str, Any] = field(default_factory=dict)  #: what is compared: `name` in `SAMPLES`, and its arguments
    rule: Mapping[str, Any] = field(default_factory=dict)  #: what decides: `name` in `RULES`, and its arguments
    paper: Mapping[str, float] = field(default_factory=dict)
    """The paper's own numbers, of ours and of the best rival, where one of its tables has them."""
    reason: str = ""  #: why the quote is read so, from the paper's words, where that is not plain
    pooled: bool = False  #: whether the exploratory and the confirmatory run together decide it, too
    further: bool = False  #: whether the further run decides it, too: photographs or scenes not yet asked with ranges

    def __post_init__(self) -> None:
        if self.experiment not in ("", *GAMES):
            raise InputError(f"there is no experiment {self.experiment!r}; there are {', '.join(GAMES)}.")
        if not bool(self.experiment) == bool(self.sample) == bool(self.rule):
            raise InputError("an experiment, a sample and a rule go together: give all three or none.")
        if self.experiment:
            self._functions()

    def finding(self, results: Mapping[str, pd.DataFrame], samples: dict[str, pd.DataFrame] | None = None) -> Finding:
        """What the tables of experiments, by name, say about it. `samples` caches what several claims compare."""
        if not self.experiment:
            return Finding(Verdict.NEEDS_DATA, "nothing", 0)
        table = results.get(self.experiment)
        if table is None or table.empty:
            return Finding(Verdict.NEEDS_DATA, f"nothing: there are no results of {self.experiment}", 0)
        samples, compared = {} if samples is None else samples, repr((self.experiment, self.where, self.sample))
        try:
            if compared not in samples:
                samples[compared] = self.compared(table)
            return self._functions()[1](samples[compared])
        except MissingData as missing:
            return Finding(Verdict.NEEDS_DATA, f"nothing: {self.experiment} lacks {missing}", 0)

    def compared(self, table: pd.DataFrame) -> pd.DataFrame:
        """The sample (photographs or scenes, columns) of the experiment's table. Raises MissingData if it lacks it."""
        for column, value in self.where.items():
            if column not in table:
                raise MissingData(f"the column {column}: not measured there")
            table = table[table[column].isin(value if isinstance(value, list) else [value])]
        return self._functions()[0](table)

    def _functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return _function("sample", SAMPLES, **self.sample), _function("rule", RULES, **self.rule)


def _function(
    kind: str, functions: Mapping[str, Callable[..., Any]], /, name: str | None = None, **arguments: Any
) -> Callable[..., Any]:
    """The function of this name with these arguments bound; its first argument is still open."""
    if name not in functions:
        raise InputError(f"there is no {kind} {name!r}; there are {', '.join(functions)}.")
    try:
        signature(functions[name]).bind(None, **arguments)
    except TypeError as error:
        raise InputError(f"the {kind} {name}: {error}.") from error
    return partial(functions[name], **arguments)


def read_claims(text: str) -> tuple[Claim, ...]:
    """Claims from YAML (see `claims.yaml`), sorted by section. Raises InputError that names the claim that is wrong."""
    data = yaml.safe_load(text)
    claims = []
    for number, entry in enumerate(data["claims"], 1):
        try:
            claim = Claim(**entry)
            if claim.section not in data["sections"]:
                raise InputError(f"there is no section {claim.section!r}; there are {', '.join(data['sections'])}.")
        except (InputError, TypeError) as error:
            raise InputError(f"claim {number}, {str(entry.get('quote'))!r}: {error}") from error
        claims.append(replace(claim, asks=data["asks"].get(claim.experiment, "{}").format(claim.asks)))
    return tuple(sorted(claims, key=lambda claim: data["sections"].index(claim.section)))


_TEXT = files(__package__).joinpath("claims.yaml").read_text(encoding="utf-8")
RUNS, FURTHER, NETWORKS, COMMITTED = map(yaml.safe_load(_TEXT).get, ("runs", "further", "networks", "committed"))
"""The folders of results: RUNS by "exploratory" and "confirmatory"; FURTHER, of what the confirmatory run did not ask
with ranges of layers; NETWORKS, of other networks. COMMITTED is the rules' commit, before all runs but the first."""

CLAIMS = read_claims(_TEXT)
"""All of them, section by section."""

CLEAR = [Verdict.REPRODUCED, Verdict.NOT_REPRODUCED]


def published_runs(folder: Path) -> dict[str, dict[str, Results]]:
    """The results by game of those `RUNS` that are in the folder, the confirmatory one first."""
    runs = {kind: load_all(folder / RUNS[kind]) for kind in ("confirmatory", "exploratory")}
    return {kind: results for kind, results in runs.items() if results}


def published_networks(folder: Path) -> dict[str, dict[str, Results]]:
    """Network's name -> its results by game, for the confirmatory run and the other `NETWORKS`. The folder's name is
    added if an earlier folder has a network of the same name."""
    networks: dict[str, dict[str, Results]] = {}
    for name in (RUNS["confirmatory"], *NETWORKS):
        own: dict[str, dict[str, Results]] = {}
        for game, run in load_all(folder / name).items():
            own.setdefault(run.manifest["network"]["name"], {})[game] = run
        networks |= {f"{network}, {name}" if network in networks else network: runs for network, runs in own.items()}
    return networks


def on_shared_photographs(networks: Mapping[str, Mapping[str, pd.DataFrame]]) -> dict[str, dict[str, pd.DataFrame]]:
    """Each network's tables by game, for games of two networks or more, with the lines of the photographs that all of
    these were asked about. Scenes are not filtered: their names do not say whether they are the same."""
    shared: dict[str, dict[str, pd.DataFrame]] = {network: {} for network in networks}
    for game in GAMES:
        tables = {network: of_games[game] for network, of_games in networks.items() if game in of_games}
        if len(tables) > 1:
            if all("photograph" in table for table in tables.values()):
                common = set.intersection(*(set(table.photograph) for table in tables.values()))
                tables = {network: table[table.photograph.isin(common)] for network, table in tables.items()}
            for network, table in tables.items():
                shared[network][game] = table
    return shared


def pool(*runs: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables of two runs as one: the lines whose settings are in both, with scenes renamed to tell them apart."""
    pooled = {}
    for name in runs[0].keys() & runs[1].keys():
        tables = [run[name] for run in runs]
        keys = _settings_of(tables[0])
        common = tables[0][keys].drop_duplicates().merge(tables[1][keys].drop_duplicates())
        tables = [table.merge(common) for table in tables]
        if "scene" in tables[0]:
            tables = [table.assign(scene=f"{n} " + table.scene) for n, table in enumerate(tables)]
        pooled[name] = pd.concat(tables, join="inner", ignore_index=True)
    return pooled


def _settings_of(table: pd.DataFrame) -> list[str]:
    """The columns that identify a line, apart from the picture."""
    return [name for name in ("role", "method", "settings", "scale", "sigma", "seed", "stage") if name in table]


def changed(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The claims whose verdict differs in the second scoreboard, if it has their data: the columns of the first;
    measured, verdict and n of the second as measured_after and so on; and `how` the verdict changed."""
    both = before.join(after[["measured", "verdict", "n"]], how="inner", rsuffix="_after")
    both = both[(both.verdict != both.verdict_after) & (both.verdict_after != Verdict.NEEDS_DATA)]
    lacking = both.verdict == Verdict.NEEDS_DATA
    decided = both.verdict.isin(CLEAR)
    still = both.verdict_after != Verdict.UNDECIDED
    ways = ["measured in the later run alone", "the other way round now", "clear then, not now"]
    return both.assign(how=np.select([lacking, decided & still, decided], ways, "undecided then, decided now"))


def scoreboard(results: Mapping[str, pd.DataFrame], places: Sequence[int] = range(len(CLAIMS))) -> pd.DataFrame:
    """A line for each of the `CLAIMS`, or of those at these places, decided from the tables of experiments, by name.

    Returns:
        By place in `CLAIMS`: section, quote and asks of the claim; rule, a name of one of the `RULES`, "" where nothing
        can be measured; measured, n, needed, verdict and missing as in `Finding`. A claim whose table is missing or has
        too little in it "needs data that is not here".
    """
    # As categories, words are compared only once; samples ask for the same ones a thousand times.
    words = ("role", "method", "settings", "photograph", "scene")
    results = {
        name: table.astype({column: "category" for column in words if column in table})
        for name, table in results.items()
    }
    lines: dict[int, dict[str, Any]] = {}
    samples: dict[str, pd.DataFrame] = {}
    for place in places:
        claim = CLAIMS[place]
        about = {"section": claim.section, "quote": claim.quote, "asks": claim.asks}
        lines[place] = about | {"rule": claim.rule.get("name", "")} | vars(claim.finding(results, samples))
    columns = "section quote asks rule measured n needed verdict missing".split()
    return pd.DataFrame(lines.values(), index=list(lines), columns=columns)


def not_asked(run: Mapping[str, pd.DataFrame], further: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables by game of the photographs or scenes that a run did not ask with ranges of layers: the run's own lines of
    them, and the lines of the same ranges with the same settings from the `further` run."""
    found = {}
    for name in run.keys() & further.keys():
        unit = "scene" if "scene" in run[name] else "photograph"
        is_range = run[name].role == "range"
        asked, own = run[name][is_range], run[name][~is_range]
        ranges = further[name].merge(asked[_settings_of(asked)].drop_duplicates())
        ranges = ranges[~ranges[unit].isin(asked[unit])]
        found[name] = pd.concat([own[own[unit].isin(ranges[unit])], ranges], ignore_index=True)
    return found


def later_scoreboards(
    runs: Mapping[str, Mapping[str, pd.DataFrame]], further: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Title -> the scoreboard of the claims that more than the confirmatory run may decide (see `Claim`): both runs
    pooled, and the further run. `runs` has the tables of the runs that are there, by the keys of `RUNS`."""
    asked = {}
    if runs.keys() >= RUNS.keys():
        asked["both runs pooled"] = "pooled", pool(*(runs[kind] for kind in RUNS))
    if "confirmatory" in runs:
        asked["the further run"] = "further", not_asked(runs["confirmatory"], further)
    boards = {
        title: scoreboard(tables, [place for place, claim in enumerate(CLAIMS) if getattr(claim, which)])
        for title, (which, tables) in asked.items()
    }
    return {title: board[board.verdict != Verdict.NEEDS_DATA] for title, board in boards.items()}


def decided(boards: Mapping[str, pd.DataFrame], later: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Each claim from the first of several scoreboards that has its data or, if that one leaves it undecided, from the
    first of the `later` ones that decides it. The column `by` has the title of that scoreboard."""
    (first, board), *others = boards.items()
    board = board.assign(by=first)
    for title, other in others:
        lacking = (board.verdict == Verdict.NEEDS_DATA) & (other.verdict != Verdict.NEEDS_DATA)
        board = board.mask(lacking, other.assign(by=title))
    for title, other in later.items():
        clear = other[other.verdict.isin(CLEAR) & (board.verdict == Verdict.UNDECIDED).reindex(other.index)]
        board.loc[clear.index] = clear.assign(by=title)
    return board


def count_verdicts(board: pd.DataFrame) -> dict[Verdict, int]:
    """How many claims of a scoreboard have each verdict, in the order of `Verdict`."""
    return {verdict: int((board.verdict == verdict).sum()) for verdict in Verdict}
