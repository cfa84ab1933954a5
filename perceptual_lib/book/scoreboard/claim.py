"""A claim of the paper, and how the tables of experiments decide it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import pandas as pd

from perceptual_lib.book.scoreboard.verdicts import Finding, MissingData, Verdict

Sample = Callable[[pd.DataFrame], pd.DataFrame]
Rule = partial[Finding]


@dataclass(frozen=True)
class Claim:
    """Something that the paper says and a number can decide.

    Attributes:
        section: of the paper; its abstract, a figure, a table.
        quote: its words.
        asks: how they are read here: what is measured, and on what in place of the paper's data; where nothing can be
            measured, what that would take.
        sample: from the experiment's table to what is compared, see `verdicts`; raises `MissingData`.
        rule: from there to a finding: one of the `RULES`, with its arguments.
        experiment: its name, "" where nothing can be measured.
        paper: the paper's own numbers, of ours and of the best rival, where one of its tables has them.
    """

    section: str
    quote: str
    asks: str
    sample: Sample | None = None
    rule: Rule | None = None
    experiment: str = ""
    paper: str = ""

    @property
    def rule_name(self) -> str:
        """Of the `RULES`; "" where nothing can be measured."""
        return self.rule.func.__name__ if self.rule else ""

    def finding(self, results: Mapping[str, pd.DataFrame]) -> Finding:
        """What the tables of experiments, by name, say about it."""
        if self.sample is None or self.rule is None:
            return Finding(Verdict.NEEDS_DATA, "nothing", 0)
        table = results.get(self.experiment)
        if table is None or table.empty:
            return Finding(Verdict.NEEDS_DATA, f"nothing: there are no results of {self.experiment}", 0)
        try:
            return self.rule(self.sample(table))
        except MissingData as missing:
            return Finding(Verdict.NEEDS_DATA, f"nothing: {self.experiment} lacks {missing}", 0)
