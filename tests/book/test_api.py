"""The API page names what there is: a build of the book, which would find that out, takes minutes."""

import importlib
import re
from pathlib import Path


def test_every_member_is_there() -> None:
    page = (Path(__file__).parents[2] / "book" / "api.md").read_text("utf-8")
    listed = re.findall(r"automodule:: (\S+)\n   :members: ?(.*)", page)
    assert len(listed) > 20
    for module, members in listed:
        for name in filter(None, members.split(", ")):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
