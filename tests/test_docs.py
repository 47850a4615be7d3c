"""Pages that are made from the code, and links between pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flows.cli import COMMANDS
from flows.views.presets_table import comparison_markdown
from trainer.config.presets import PRESETS
from trainer.errors import ExitCode

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]


def test_the_presets_page_is_what_the_presets_say():
    page = (DOCS / "presets.md").read_text()
    assert page.endswith(comparison_markdown(list(PRESETS.values())) + "\n"), (
        "write it anew: pippa presets compare --markdown (docs/presets.md)"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_exist(page):
    words = {tuple(command.words.split()) for command in COMMANDS}
    for named in re.findall(r"(?:uv run |`)pippa ([a-z]+(?: [a-z]+)?)", page.read_text()):
        parts = tuple(named.split())
        assert parts in words or parts[:1] in words or parts[:1] in {first[:1] for first in words}, named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_compose_commands_stop_trainings_before_their_store_and_name_what_exists(page):
    compose = yaml.safe_load((DOCS.parent / "compose.yaml").read_text())
    text = page.read_text()
    for verb, rest in re.findall(r"docker compose (stop|down)\b([^`\n|&]*)", text):
        assert rest.split() and rest.split()[0] in compose["services"], f"without --profile '*': {verb}{rest}"
    for volume in re.findall(r"docker volume rm (\w+)", text):
        assert volume.removeprefix(f"{compose['name']}_") in compose["volumes"], volume
    for service in re.findall(r"docker compose (?:up|run --rm)(?: -d| --detach)? ([a-z][\w-]+)", text):
        assert service in compose["services"], service


def test_every_exit_code_is_explained():
    text = (DOCS / "troubleshooting.md").read_text()
    missing = [code for code in ExitCode if not re.search(rf"^\|.*\b{int(code)}\b.*\|", text, flags=re.MULTILINE)]
    assert not missing
