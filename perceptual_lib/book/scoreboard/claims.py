"""The paper's claims: read from `claims.yaml`, checked, and decided from the tables of experiments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from inspect import signature
from typing import Any

import pandas as pd
import yaml

from perceptual_lib.book.scoreboard.rules import RULES, Finding, MissingData, Verdict
from perceptual_lib.book.scoreboard.samples import SAMPLES
from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.games import GAMES


@dataclass(frozen=True)
class Claim:
    """Something that the paper says and a number can decide.

    Attributes:
        section: of the paper; its abstract, a figure, a table.
        quote: its words.
        asks: how they are read here: what is measured, and on what in place of the paper's data; where nothing can be
            measured, what that would take.
        experiment: whose table decides; "" where nothing can be measured.
        where: values that columns of the table have in the lines that count.
        sample: what of the table is compared: the name of one of the `SAMPLES`, and its arguments.
        rule: what decides from there: the name of one of the `RULES`, and its arguments.
        paper: the paper's own numbers, of ours and of the best rival, where one of its tables has them.

    Raises:
        InputError: no such experiment, sample or rule, or not with these arguments.
    """

    section: str
    quote: str
    asks: str
    experiment: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    sample: Mapping[str, Any] = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.experiment not in ("", *GAMES):
            raise InputError(f"there is no experiment {self.experiment!r}; there are {', '.join(GAMES)}.")
        if not bool(self.experiment) == bool(self.sample) == bool(self.rule):
            raise InputError("an experiment, a sample and a rule go together: give all three or none.")
        if self.experiment:
            self._functions()

    def finding(self, results: Mapping[str, pd.DataFrame]) -> Finding:
        """What the tables of experiments, by name, say about it."""
        if not self.experiment:
            return Finding(Verdict.NEEDS_DATA, "nothing", 0)
        table = results.get(self.experiment)
        if table is None or table.empty:
            return Finding(Verdict.NEEDS_DATA, f"nothing: there are no results of {self.experiment}", 0)
        for column, value in self.where.items():
            table = table[table[column] == value]
        sample, rule = self._functions()
        try:
            return rule(sample(table))
        except MissingData as missing:
            return Finding(Verdict.NEEDS_DATA, f"nothing: {self.experiment} lacks {missing}", 0)

    def _functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return _function("sample", self.sample, SAMPLES), _function("rule", self.rule, RULES)


def _function(kind: str, call: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The function that `call` names, with its arguments; what they are applied to is still missing."""
    arguments = dict(call)
    name = arguments.pop("name", None)
    if name not in functions:
        raise InputError(f"there is no {kind} {name!r}; there are {', '.join(functions)}.")
    try:
        signature(functions[name]).bind(None, **arguments)
    except TypeError as error:
        raise InputError(f"the {kind} {name}: {error}.") from error
    return partial(functions[name], **arguments)


def read_claims(text: str) -> tuple[Claim, ...]:
    """Claims from YAML, see `claims.yaml`; section by section.

    Raises:
        InputError: a claim that is wrong; the sentence says which one, and how.
    """
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


CLAIMS = read_claims(files(__package__).joinpath("claims.yaml").read_text(encoding="utf-8"))
"""All of them, section by section."""


def scoreboard(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A line for each of the `CLAIMS`.

    Args:
        results: tables of the experiments by name. A claim whose table is missing, or has too little in it, "needs data
            that is not here".

    Returns:
        section and quote; asks, how the quote is read; rule, the name of one of the `RULES`, "" where nothing can be
        measured; measured, in words; n, photographs or scenes of the smallest comparison; verdict, a `Verdict`.
    """
    lines = []
    for claim in CLAIMS:
        finding = claim.finding(results)
        about = claim.section, claim.quote, claim.asks, claim.rule.get("name", "")
        lines.append((*about, finding.measured, finding.n, finding.verdict))
    return pd.DataFrame(lines, columns="section quote asks rule measured n verdict".split())


def count_verdicts(board: pd.DataFrame) -> dict[Verdict, int]:
    """How many claims of a scoreboard have each verdict, in the order of `Verdict`."""
    return {verdict: int((board.verdict == verdict).sum()) for verdict in Verdict}
