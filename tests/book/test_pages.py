"""Pages on their way to the site: what they are told of the clone that they come from."""

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("nbformat")  # the unit tests can do without it

from perceptual_lib.book import pages  # noqa: E402


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b"),
        ("https://user:token@gitlab.example.org/group/sub/b/", "https://gitlab.example.org/group/sub/b"),
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@github.com/a/b", "https://github.com/a/b"),
        ("ssh://git@git.example.org:2222/a/b.git", "https://git.example.org/a/b"),
        ("/srv/git/b.git", None),
        ("../b", None),
        ("file:///srv/git/b.git", None),
        (None, None),
    ],
)
def test_the_address_of_the_repository_is_its_remotes(tmp_path: Path, remote: str | None, address: str | None) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    if remote is not None:
        subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", remote], check=True)
    assert pages.repository(tmp_path) == address
