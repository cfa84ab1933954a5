"""A browser for the tests: a server for a built site, and what goes wrong while a page is open."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Error, Page

OPTIONS = """
    --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run
""".split()


PATIENCE = 120_000
"""Milliseconds that a test waits for a page: where more runs beside it, one may stall for more than half a minute."""


class Quiet(SimpleHTTPRequestHandler):
    """A server that does not write of every request."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder is served meanwhile, on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def new_context(browser: Browser, **settings: object) -> Iterator[BrowserContext]:
    """A browser that has seen nothing before: an empty cache, no settings kept."""
    with browser.new_context(**settings) as context:
        context.set_default_timeout(PATIENCE)
        yield context


@contextmanager
def new_tab(browser: Browser, **settings: object) -> Iterator[Page]:
    """The only tab of a new context. What failed on it is told with what was wrong with the page meanwhile."""
    with new_context(browser, **settings) as context:
        tab = context.new_page()
        heard = complaints(tab, "")
        try:
            yield tab
        except Error as failure:
            failure.add_note(f"What was wrong on the page until then: {heard or 'nothing'}.")
            raise


def wake(tab: Page) -> None:
    """Wake the explorers of an open page, which wait until they are seen, and let its scripts finish."""
    for explorer in tab.locator(".explorer").all():
        explorer.scroll_into_view_if_needed()
        explorer.locator("canvas").first.wait_for()
    tab.evaluate("() => new Promise(resolve => requestIdleCallback(resolve))")


def complaints(tab: Page, site: str) -> list[str]:
    """What goes wrong in the tab from now on (the list grows): errors, failed requests, requests to other hosts."""
    heard: list[str] = []

    def listen(event: str, complaint: Callable[[Any], str | None]) -> None:
        tab.on(event, lambda about: heard.extend(filter(None, [complaint(about)])))

    own = (site, "data:", "blob:")
    listen("pageerror", lambda error: f"uncaught: {error}")
    listen("console", lambda said: f"{said.text} ({said.location['url']})" if said.type == "error" else None)
    # What was still on its way when the page was left is no failure.
    left = "net::ERR_ABORTED"
    listen("requestfailed", lambda it: None if it.failure == left else f"failed: {it.url} ({it.failure})")
    listen("response", lambda reply: f"{reply.status}: {reply.url}" if reply.status >= 400 else None)
    listen("request", lambda request: None if request.url.startswith(own) else f"elsewhere: {request.url}")
    return heard
