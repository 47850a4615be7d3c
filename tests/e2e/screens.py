"""Pictures of Prefect's web page, as a person sees it in a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.waiting import PATIENCE

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


class Screens:
    """A signed-in browser. ``shot`` keeps a picture in ``folder``."""

    def __init__(self, page: Page, address: str, folder: Path) -> None:
        self._page = page
        self._address = address
        self._folder = folder

    def sign_in(self, auth: str) -> None:
        """Fill in the login page."""
        self._page.goto(f"{self._address}/v2/login")
        self._page.locator("input").fill(auth)
        self._page.get_by_role("button", name="Login").click()
        self._page.wait_for_url("**/dashboard**")

    def shot(self, name: str, path: str, *texts: str) -> Path:
        """Open ``path``, wait until each of ``texts`` is seen, and take a picture."""
        self._page.goto(f"{self._address}/v2/{path}")
        return self.here(name, *texts)

    def click(self, text: str) -> None:
        """Click what says ``text``."""
        self._page.get_by_text(text, exact=True).first.click()

    def choose(self, field: str, choice: str) -> None:
        """Choose among what a field of a form offers."""
        label = self._page.locator("label", has_text=field).first
        self._page.locator(f"#{label.get_attribute('for')}").click()
        self._page.get_by_role("option", name=choice, exact=True).click()

    def submit(self) -> None:
        """Send the form, and wait until Prefect has left it."""
        self._page.get_by_role("button", name="Submit").click()
        self._page.wait_for_url(lambda url: not url.endswith("/run"))

    def pictures(self) -> int:
        """How many pictures the page shows."""
        shown = "[...document.querySelectorAll('main img, img')].filter(each => each.naturalWidth > 0).length"
        return self._page.evaluate(shown)

    def here(self, name: str, *texts: str) -> Path:
        """A picture of the page as it is, once each of ``texts`` is seen."""
        for text in texts:
            self._page.get_by_text(text).first.wait_for()
        self._page.wait_for_timeout(1500)  # charts slide in
        file = self._folder / f"{name}.png"
        self._page.screenshot(path=file)
        return file

    def text(self) -> str:
        """Everything the page says."""
        return self._page.locator("body").inner_text()


@contextmanager
def chromium() -> Generator[Browser]:
    """A headless Chromium, Debian's or Chrome itself."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@contextmanager
def browser(address: str, folder: Path) -> Generator[Screens]:
    """A page of Prefect at ``address``; its pictures go to ``folder``."""
    with chromium() as started:
        page = started.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(1000 * PATIENCE)
        yield Screens(page, address, folder)


def picture_folder(default: Path) -> Path:
    """Where pictures go: PIPPA_PICTURES, to renew those of docs/images, else ``default``."""
    folder = Path(os.environ.get("PIPPA_PICTURES") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
