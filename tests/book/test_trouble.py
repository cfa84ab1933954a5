"""The page "When something is wrong" has what sentences send to it, and nothing that none does."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_section_is_named_by_a_sentence_and_the_other_way_round() -> None:
    page = (ROOT / "book" / "trouble.md").read_text("utf-8")
    sections = re.findall(r"^## (.+)$", page, re.MULTILINE)
    sources = [path.read_text("utf-8") for path in (ROOT / "perceptual_lib").rglob("*.py")]
    named = {name for source in sources for name in re.findall(r"""see\(['"](.+?)['"]\)""", source)}
    assert sorted(sections) == sorted(named)
