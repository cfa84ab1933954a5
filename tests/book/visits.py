"""What a browser finds on the pages of a site: one sentence for each thing that is wrong."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page


@dataclass(frozen=True)
class Visit:
    """What was found on a page: one sentence for each thing that is wrong, and its width in pixels."""

    complaints: list[str]
    missing_pictures: list[str]
    width: int


def pages(site: Path) -> list[str]:
    """All pages, but not the one that only leads to the first."""
    paths = (path.relative_to(site) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)
    return [path.as_posix() for path in paths if path != Path("index.html")]


def find_missing_pictures(tab: Page) -> list[str]:
    """Those that cannot be shown, also of what would wait until the reader gets there."""
    return tab.evaluate("""async () => {
        const missing = await Promise.all([...document.images].map(image => {
            image.loading = "eager";
            return image.decode().then(() => [], () => [image.src]);
        }));
        return missing.flat();
    }""")


def width_of(tab: Page) -> int:
    return tab.evaluate("document.scrollingElement.scrollWidth")


def told(visits: dict[str, Visit], find: Callable[[Visit], list[str]]) -> Iterator[str]:
    """What was found on the pages: "page: what"."""
    return (f"{name}: {what}" for name, visit in visits.items() for what in find(visit))
