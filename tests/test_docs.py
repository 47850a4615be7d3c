"""Pages that are made from the code, and links between pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import COMMANDS
from flows.views.forecast import Plan, plan
from flows.views.presets_table import comparison_markdown
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import PRESETS
from trainer.errors import ExitCode
from trainer.forecast import CARDS, CUDA_BYTES, FITS, forecast, smallest_card, ways
from trainer.gr00t.n15.sections import Sections

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]


def test_the_presets_page_is_what_the_presets_say():
    page = (DOCS / "presets.md").read_text()
    assert page.endswith(comparison_markdown(list(PRESETS.values())) + "\n"), (
        "write it anew: pippa presets compare --markdown (docs/presets.md)"
    )


def memory_table() -> str:
    """GPU memory by what is trained and by batch, with the smallest size of a card that has it."""
    everything = {"tune_llm": True, "tune_visual": True}
    kinds: dict[str, dict[str, Any]] = {
        "the default: projector, diffusion model": {},
        "`--no-tune-diffusion-model`": {"tune_diffusion_model": False},
        "`--tune-llm`": {"tune_llm": True},
        "`--tune-visual`": {"tune_visual": True},
        "`--tune-llm --tune-visual`: everything": everything,
        "`--lora-rank 32`": {"lora_rank": 32},
        "`--lora-rank 32 --lora-full-model`": {"lora_rank": 32, "lora_full_model": True},
        "the default, accumulating gradients": {"gradient_accumulation_steps": 2},
    }
    lines = ["| trained | parameters | batch 1 | batch 8 | batch 32 |", "|---|---|---|---|---|"]
    for title, flags in kinds.items():
        cells, trained = [], 0
        for batch in (1, 8, 32):
            config = FinetuneConfig(dataset_path=["any"], data_config="so100_dualcam", batch_size=batch, **flags)
            memory = forecast(config, Sections.of({})).gpu
            cells.append(f"{memory.total / 1e9:.1f} GB: {smallest_card(memory.total)} GB")
            trained = memory.trained
        lines.append(f"| {' | '.join([title, f'{trained / 1e6:,.1f} M', *cells])} |")
    return "\n".join(lines)


def test_the_memory_page_has_the_forecasts_figures():
    page = (DOCS / "memory.md").read_text()
    assert memory_table() in page, f"write it there:\n{memory_table()}"
    assert f"{FITS:.0%}".replace("%", " %") in page and f"{CUDA_BYTES / 1e9:.0f} GB" in page


def figures() -> dict[str, list[str]]:
    """What pages say of memory and disk, in their words."""
    blog, demo, long = (
        plan(PRESETS[name].config, "process", "native", None, {}) for name in PRESETS if name != "smoke"
    )
    assert blog and demo and long
    disk, model = blog.needs.disk, blog.needs.gpu.weights

    def gb(count: float, digits: int = 0) -> str:
        return f"{count / 1e9:.{digits}f}"

    def whole_disk(found: Plan) -> str:
        return f"{gb(found.disk + 80e9)} GB"  # with 30 of images and 50 of the system

    cards = [f"{smallest_card(each.needs.gpu.total)} GB" for each in (demo, blog, long)]
    fitting = [way.flags for way in ways(blog.config, blog.model, CARDS[24] << 20)]
    state, assumed = disk.saves * disk.moments, blog.needs.disk.frames or 0
    return {
        "docs/deploy.md": [
            f"| GPU, at least | `overfit-demo` {cards[0]}, `blog` {cards[1]} | {cards[2]} |",
            f"the engine takes up to {gb(blog.needs.host)} GB | 32 GB; the engine takes {gb(long.needs.host)} GB |",
            f"| `overfit-demo` {whole_disk(demo)}, `blog` {whole_disk(blog)} | {whole_disk(long)} |",
            "on a GPU of 24 GB with `{}`, `{}` or `{}`.".format(*fitting),
            f"{gb(disk.frozen, 1)} frozen and {gb(disk.each, 1)} new each | {gb(disk.checkpoints)} |",
            f"frames of so101-table-cleanup, decoded | {gb(assumed)} |",
            f"of {gb(disk.changing, 1)}, and {gb(disk.frozen, 1)} frozen once | {gb(disk.uploaded)} |",
            f"what is replaced stays until `gc --delete` | {gb(state)} |",
            f"base model, in MinIO and as files | {gb(2 * model)} |",
            f"MinIO saves {gb(disk.uploaded + state + model)} GB",
        ],
        "docs/scale.md": [
            f"| 1.345 B | bf16 | {gb(disk.frozen, 2)} GB |",
            f"| 1.069 B | float32 | {gb(disk.changing, 2)} GB |",
            f"| of the tuned ones | float32 | {gb(disk.moments, 2)} GB |",
            f"| {gb(disk.frozen + disk.each, 1)} GB, of which {gb(disk.each, 1)} GB new each time |",
            f"{gb(disk.frozen, 1)} + 6 × {gb(disk.each, 1)} = {gb(disk.checkpoints)} GB",
            f"{gb(disk.frozen, 1)} GB + *k* × {gb(disk.changing, 2)} GB",
            f"{gb(disk.uploaded)} GB for the ten checkpoints of `blog`; {gb(disk.moments, 2)} GB more",
            f"| the cache on disk | 3 bytes a pixel | {gb(assumed, 1)} GB |",
        ],
        "docs/data.md": [f"{gb(disk.checkpoints)} GB for the 3B", f"(95,000 frames) {gb(assumed)} GB"],
        "docs/memory.md": [f"moments: {gb(disk.changing + disk.moments, 1)} GB with", f"| {gb(model)} GB |"],
        "deploy/skypilot.yaml": [f'24 GB takes FLAGS: "{fitting[0]}"'],
    }


def test_pages_agree_with_the_forecast():
    missing = [(page, each) for page, said in figures().items() for each in said if each not in _text(page)]
    assert not missing


def _text(page: str) -> str:
    return (DOCS.parent / page).read_text()


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
