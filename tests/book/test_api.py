"""The API page names what there is: a build of the book, which would find that out, takes minutes."""

import importlib
import re
from pathlib import Path

FOLDED = re.compile(r":::\{dropdown\} ([^\n]*)\n```\{eval-rst\}\n(.*?)\n```\n:::", re.DOTALL)


def test_every_member_is_there_and_in_the_title_of_what_is_folded() -> None:
    page = (Path(__file__).parents[2] / "book" / "api.md").read_text("utf-8")
    folded = FOLDED.findall(page)
    assert len(folded) == page.count("```{eval-rst}")
    listed = [re.findall(r"automodule:: (\S+)\n   :members: ?(.*)", block) for _, block in folded]
    assert sum(map(len, listed)) > 20
    for (title, _), modules in zip(folded, listed, strict=True):
        for module, members in modules:
            names = members.split(", ") if members else []
            assert all(hasattr(importlib.import_module(module), name) for name in names), (module, names)
            assert ", ".join(names) in title
        if all(members for _, members in modules):
            assert title == ", ".join(members for _, members in modules)
