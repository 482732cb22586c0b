"""A real headless browser for tests: the installed Chromium or Chrome, restricted to this machine."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

__all__ = ["open_page"]

# Keep in sync with scripts/install_programs.sh.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Allows for an Airflow on a busy machine.
_TIMEOUT_MILLISECONDS = 90_000
_ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@contextmanager
def open_page() -> Iterator[Page]:
    """Open an empty page in a browser, which closes when the block ends.

    Within the block, nothing else in this thread may run an asyncio loop.
    """
    executable = next(filter(None, map(shutil.which, _NAMES)), None)
    if executable is None:
        raise RuntimeError(
            f"No browser found: none of {', '.join(_NAMES)} is on the PATH. On Debian: apt-get install chromium."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        try:
            page = browser.new_page(
                viewport={"width": 1280, "height": 1000}, permissions=["clipboard-read", "clipboard-write"]
            )
            page.set_default_timeout(_TIMEOUT_MILLISECONDS)
            expect.set_options(timeout=_TIMEOUT_MILLISECONDS)
            yield page
        finally:
            browser.close()
