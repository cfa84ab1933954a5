"""The checks of a site's links find what they are for."""

from pathlib import Path

import pytest
from links import broken_links, remote_requests


@pytest.mark.parametrize(
    "markup",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<img src="//cdn.example/a.png">',
        '<link rel="stylesheet" href="http://cdn.example/a.css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<p style="background: url(https://cdn.example/a.png)"></p>',
        "<style>@import 'https://cdn.example/a.css';</style>",
        '<script>fetch("https://cdn.example/data.json")</script>',
        '<script type="module">import x from "https://cdn.example/x.js";</script>',
        '<script>script.src = "https://cdn.example/x.js"</script>',
    ],
)
def test_a_remote_request_is_found(tmp_path: Path, markup: str) -> None:
    (tmp_path / "index.html").write_text(f'<a href="https://example.org">a link is no request</a>{markup}')
    assert len(remote_requests(tmp_path)) == 1


@pytest.mark.parametrize("link", ["missing.html", "#missing", "other.html#missing"])
def test_a_broken_link_is_found(tmp_path: Path, link: str) -> None:
    (tmp_path / "other.html").write_text('<p id="there"></p>')
    (tmp_path / "index.html").write_text(f'<a href="other.html#there">fine</a><a href="{link}">broken</a>')
    assert broken_links(tmp_path) == [f"index.html: {link}"]
