"""What the pages of a site fetch from other hosts, and which of their links lead nowhere."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

REMOTE = r"(?:https?:)?//[\w.-]+"
FETCHED = {"src", "srcset", "poster", "data", "background"}
FETCHED_LINKS = {
    "stylesheet",
    "icon",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "manifest",
}


class Page(HTMLParser):
    """What a page fetches, where it links to, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.inside = tag
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        self.fetched += [values[key] for key in FETCHED & values.keys()]
        self.fetched += remote_in_css(values.get("style", ""))
        if tag == "link" and FETCHED_LINKS & set(values.get("rel", "").split()):
            self.fetched.append(values["href"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.fetched += remote_in_css(data)
        if self.inside == "script":
            self.fetched += remote_in_script(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


def remote_in_css(text: str) -> list[str]:
    return re.findall(rf"""(?:url\(|@import)\s*["']?({REMOTE})""", text)


def remote_in_script(text: str) -> list[str]:
    calls = r"\bfetch\(|\bimport\(|\bimport\b[^;'\"]*|importScripts\(|\.open\([^,]*,|\.src\s*="
    return re.findall(rf"""(?:{calls})\s*["'`]({REMOTE})""", text)


def pages(site: Path) -> Iterator[Page]:
    return (Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)


def remote_requests(site: Path) -> list[str]:
    """Everything that a browser would fetch from another host: "page: address"."""
    found = [(page.path, address) for page in pages(site) for address in page.fetched if re.match(REMOTE, address)]
    for path in site.rglob("*.css"):
        found += [(path, address) for address in remote_in_css(path.read_text(encoding="utf-8"))]
    for path in site.rglob("*.js"):
        found += [(path, address) for address in remote_in_script(path.read_text(encoding="utf-8"))]
    return [f"{path.relative_to(site)}: {address}" for path, address in found]


def broken_links(site: Path) -> list[str]:
    """Links and fetched files within the site that lead nowhere: "page: address"."""
    read = {page.path.resolve(): page for page in pages(site)}
    broken = []
    for page in read.values():
        for address in page.links + page.fetched:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path.resolve()
            missing = not target.exists()
            is_state = "=" in parts.fragment  # of an explorer, and no place on the page
            if not missing and parts.fragment and target in read and not is_state:
                missing = unquote(parts.fragment) not in read[target].anchors
            if missing:
                broken.append(f"{page.path.relative_to(site)}: {address}")
    return broken
