"""The page that compares libraries shows what it says of this one, and names the versions that were looked at."""

import ast
import re
from pathlib import Path

import pytest

from perceptual_lib.book.pages import STAND_IN

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "compared.md").read_text(encoding="utf-8")
DEFINITIONS = dict(re.findall(r"^\[([^\]^]+)\]: (.+)$", PAGE, re.MULTILINE))
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("link", DEFINITIONS.values(), ids=DEFINITIONS)
def test_a_link_to_a_test_names_one(link: str) -> None:
    path, name = re.fullmatch(rf'{re.escape(STAND_IN)}/blob/main/(tests/\S+) "(test_\w+)"', link).groups()
    functions = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    assert name in [each.name for each in functions if isinstance(each, ast.FunctionDef)]


def test_what_is_here_is_shown() -> None:
    assert {len(row) for row in ROWS} == {7}
    ours = [row[1] for row in ROWS if not row[0].startswith("**") and row[1] != "–"]
    links = [re.match(r"\[[^\]^]+\](?:\[(\w+)\]|\((\S+)\))", cell) for cell in ours]
    assert len(ours) > 15 and all(links), ours
    assert all(link[1] in DEFINITIONS if link[1] else (ROOT / "book" / link[2]).is_file() for link in links)


def test_the_versions_are_those_that_tests_compare_with() -> None:
    heads = dict(head.lower().rsplit(" ", 1) for head in ROWS[0][2:])
    assert list(heads) == ["captum", "pytorch-grad-cam", "torchcam", "quantus", "torchray"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^(captum|quantus|torchray)==(\S+)$", lock, re.MULTILINE))
    assert len(locked) == 3 and locked.items() <= heads.items()
    read = re.findall(r"https://pypi\.org/project/[\w-]+/([\d.]+)/", PAGE)
    assert read == list(heads.values())
