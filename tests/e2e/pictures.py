"""``python -m tests.e2e.pictures RUN [RUN …]``: the pictures of docs/images that show reports, from runs in the store.

The first run gives those of a run's page, all of them that of a comparison. Pictures in the documentation show only
synthetic data::

    uv run pippa train smoke
    uv run pippa sweep smoke --learning-rate 1e-3 3e-3 --batch-size 4 8 --max-steps 200 --save-steps 50
    uv run python -m tests.e2e.pictures SMOKE_RUN SWEEP_RUN SWEEP_RUN …

Those of Prefect's pages come from the tests beside this (README.md).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from flows.views.comparison import compare
from flows.views.comparison_page import build_comparison_page
from flows.views.run_page import build_page
from tests.e2e.screens import chromium
from trainer.store import runs
from trainer.store.stores import open_store

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SYNTHETIC = "synthetic."
SIZE = (1000, 760)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument("--output", type=Path, default=IMAGES)
    arguments = parser.parse_args()
    store, first = open_store(), arguments.runs[0]
    for run_id in arguments.runs:
        strangers = [ref for ref in runs.read_spec(store, run_id).datasets if not ref.name.startswith(SYNTHETIC)]
        if strangers:
            parser.error(f"{run_id} was trained on {strangers[0]}: pictures of the documentation show no one's data")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        _open(page, Path(folder) / "run.html", build_page(store, first))
        page.screenshot(path=arguments.output / "report.png")
        _from(page, "#open-loop", arguments.output / "open-loop.png")
        if len(arguments.runs) > 1:
            _open(page, Path(folder) / "comparison.html", build_comparison_page(compare(store, arguments.runs)))
            page.screenshot(path=arguments.output / "comparison.png")


def _open(page: Page, file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    page.goto(file.as_uri())


def _from(page: Page, heading: str, file: Path) -> None:
    """What stands below a heading of the page, as much as a picture has room for."""
    top = page.locator(heading).bounding_box()
    assert top is not None
    clip = {"x": 0, "y": top["y"], "width": SIZE[0], "height": 560}
    page.screenshot(path=file, full_page=True, clip=clip)  # pyrefly: ignore[bad-argument-type]


if __name__ == "__main__":
    main()
