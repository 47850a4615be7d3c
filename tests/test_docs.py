"""Pages that are made from the code, links between pages, and commands: what a page or a message names can be typed."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import COMMANDS
from flows.views.forecast import Plan, plan
from flows.views.presets_commands import page as presets_page
from tests.support import documented
from tests.support.documented import Named
from tests.support.parsing import problems
from trainer import cli as trainer
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import flag
from trainer.config.n17_config import N17Config
from trainer.config.presets import PRESETS
from trainer.data.configs import DATA_CONFIGS
from trainer.data.n17.embodiments import registered
from trainer.errors import ExitCode
from trainer.forecast import CUDA_BYTES, forecast
from trainer.gr00t.n15.sections import Sections
from trainer.gr00t.n17.sections import OFFICIAL_3B
from trainer.memory_advice import CARDS, FITS, smallest_card, ways

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md")]
CODE = [file for folder in ("flows", "pippa", "trainer", "bench") for file in sorted((ROOT / folder).rglob("*.py"))]
NOTES = [*sorted((ROOT / "bench").rglob("*.md")), ROOT / "tests/e2e/README.md"]
EXAMPLES = [*sorted(DOCS.rglob("*.py")), *sorted((ROOT / "deploy").rglob("*.py"))]
TEMPLATES = sorted((ROOT / "flows").rglob("*.html"))
SETTINGS = [
    file
    for pattern in (".env.example", "*.yaml", "*.toml", "deploy/**/*", "docker/*", ".ci/**/*", ".github/**/*")
    for file in sorted(ROOT.glob(pattern))
    if file.is_file() and file.suffix not in (".py", ".pyc")
]
NAMING = [*PAGES, *NOTES, *SETTINGS, *CODE, *EXAMPLES, *TEMPLATES]
"""Every file that tells a person what to type."""


def test_the_presets_page_is_what_the_presets_say():
    page = (DOCS / "presets.md").read_text()
    assert page.endswith(presets_page(list(PRESETS.values())) + "\n"), (
        "update it: pippa presets compare --markdown (docs/presets.md)"
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


def n17_memory_rows() -> list[str]:
    """Those of N1.7, as memory.md has them."""
    rows = []
    for flags in ({}, {"tune_diffusion_model": False}, {"tune_llm": True}, {"lora_rank": 32}):
        given = {"dataset_path": ["any"], "data_config": registered()["so100"], **flags}
        made = [N17Config.model_validate({**given, "global_batch_size": batch}) for batch in (1, 8, 32)]
        needs = [forecast(config, OFFICIAL_3B).gpu for config in made]
        cells = [f"{memory.total / 1e9:.1f} GB: {smallest_card(memory.total)} GB" for memory in needs]
        rows.append(f"| {needs[0].trained / 1e6:,.1f} M | {' | '.join(cells)} |")
    return rows


def fsdp_table() -> str:
    """GPU memory of both generations by the GPUs that divide the model, with the smallest card that has it."""
    n15 = {"dataset_path": ["any"], "data_config": "so100_dualcam"}
    n17 = {"dataset_path": ["any"], "data_config": registered()["so100"]}
    everything = {"tune_llm": True, "tune_visual": True}

    def cell(given: dict[str, Any], batch: int, gpus: int) -> str:
        divided = {**given, "num_gpus": gpus, "fsdp": gpus > 1}
        if given["data_config"] == "so100_dualcam":
            total = forecast(FinetuneConfig.model_validate({**divided, "batch_size": batch}), Sections.of({})).gpu.total
        else:
            total = forecast(
                N17Config.model_validate({**divided, "global_batch_size": batch * gpus}), OFFICIAL_3B
            ).gpu.total
        return f"{total / 1e9:.1f} GB: {smallest_card(total)} GB"

    lines = ["| trained, samples on each GPU | one GPU | 2 with FSDP | 4 | 8 | 16 |", "|---|---|---|---|---|---|"]
    for title, given, batch in (
        ("N1.5: the default, 8", n15, 8),
        ("N1.5: everything, 1", {**n15, **everything}, 1),
        ("N1.5: everything, 8", {**n15, **everything}, 8),
        ("N1.7: the default, 8", n17, 8),
        ("N1.7: `--tune-llm`, 8", {**n17, "tune_llm": True}, 8),
        ("N1.7: everything, 8", {**n17, **everything}, 8),
    ):
        lines.append(f"| {' | '.join([title, *(cell(given, batch, gpus) for gpus in (1, 2, 4, 8, 16))])} |")
    return "\n".join(lines)


def test_the_memory_page_has_the_forecasts_figures():
    page = (DOCS / "memory.md").read_text()
    assert memory_table() in page, f"write it there:\n{memory_table()}"
    assert fsdp_table() in page, f"write it there:\n{fsdp_table()}"
    for row in n17_memory_rows():
        assert row in page, row
    assert f"{FITS:.0%}".replace("%", " %") in page and f"{CUDA_BYTES / 1e9:.0f} GB" in page


def figures() -> dict[str, list[str]]:
    """What pages say of memory and disk, in their words."""
    blog, demo, long = (
        plan(PRESETS[name].config, "docker", "native", None, {}) for name in ("blog", "overfit-demo", "overfit-long")
    )
    assert blog and demo and long
    disk, model = blog.needs.disk, blog.needs.gpu.weights

    def gb(count: float, digits: int = 0) -> str:
        return f"{count / 1e9:.{digits}f}"

    def whole_disk(found: Plan) -> str:
        return f"{gb(found.disk + 80e9)} GB"  # with 30 of images and 50 of the system

    cards = [f"{smallest_card(each.needs.gpu.total)} GB" for each in (demo, blog, long)]
    fitting = [way.flags for way in ways(blog.config, blog.model, CARDS[24] << 20)]
    state, assumed = disk.saves * disk.moments, blog.needs.disk.frames
    assert assumed
    return {
        "docs/deploy.md": [
            f"| GPU, at least | `overfit-demo` {cards[0]}, `blog` {cards[1]} | {cards[2]} |",
            f"the engine takes up to {gb(blog.needs.host)} GB | 32 GB; the engine takes {gb(long.needs.host)} GB |",
            f"| `overfit-demo` {whole_disk(demo)}, `blog` {whole_disk(blog)} | {whole_disk(long)} |",
            "on a GPU of 24 GB with `{}`, `{}` or `{}`.".format(*fitting),
            f"{gb(disk.frozen, 1)} frozen and {gb(disk.each, 1)} new each | {gb(disk.checkpoints)} |",
            f"frames of so101-table-cleanup, decoded | {gb(assumed.planes)} |",
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
            f"| the cache on disk | 1.5 bytes a pixel | {gb(assumed.planes, 1)} GB |",
        ],
        "docs/data.md": [
            f"{gb(disk.checkpoints)} GB for the 3B",
            f"(95,000 frames) takes {gb(assumed.rgb)} GB as RGB and {gb(assumed.planes)} GB as 4:2:0",
        ],
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


@functools.cache
def named() -> dict[Path, list[Named]]:
    return {file: documented.in_file(file) for file in NAMING}


@functools.cache
def refused() -> dict[Named, str]:
    """Every command that some file names and that can't be typed so, with what the parser says; parsed together."""
    return refusals([each for found in named().values() for each in found])


def refusals(commands: list[Named]) -> dict[Named, str]:
    ours = [each for each in commands if each.words[0] != "docker"]
    found = {each: said for each, said in zip(ours, problems([each.words for each in ours]), strict=True) if said}
    for each in ours:
        config = each.words[each.words.index("--data-config") + 1] if "--data-config" in each.words[:-1] else ""
        if config and config not in {*DATA_CONFIGS, *registered()}:
            found[each] = f"no data config: {config}"
    for each in commands:
        if each.words[0] == "docker":
            verb, services = documented.compose_services(each.words)
            if unknown := [name for name in services if name not in documented.SERVICES]:
                found[each] = f"no services of compose.yaml: {unknown}"
            if verb not in documented.COMPOSE_VERBS:
                found[each] = f"no command of Compose: {verb}"
            if verb in ("stop", "down") and not services and "--profile" not in each.words:
                found[each] = "without --profile '*' trainings continue without their store"
    return found


@pytest.mark.parametrize("file", NAMING, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_that_are_named_can_be_typed(file):
    assert not [f"{each}\n{refused()[each]}" for each in named()[file] if each in refused()]


def test_commands_are_found_in_every_kind_of_file():
    found = {file.relative_to(ROOT).as_posix() for file, commands in named().items() if commands}
    pages = {f"docs/{name}.md" for name in ("checkpoints", "data", "deploy", "schedule", "stack", "train")}
    settings = {"compose.yaml", "deploy/kubernetes-job.yaml", "deploy/skypilot.yaml", "docker/trainer.Dockerfile"}
    code = {"flows/commands/runs.py", "flows/views/report.py", "trainer/store/blobs.py", "trainer/runner/run.py"}
    assert found >= {"README.md", "CONTRIBUTING.md", *pages, *settings, *code}


WRONG = [
    ("markdown", "`pippa data frobnicate` does it."),
    ("markdown", "```sh\nuv run pippa data verify my-robot\n```\n"),
    ("markdown", "```\n$ PIPPA_HOME=/tmp pippa chekpoints list | head\n```\n"),
    ("markdown", "| step | `pippa train blog --no-such-flag` |"),
    ("markdown", "Then type pippa data frobnicate, and wait."),
    ("markdown", "`pippa train blog --max-steps many`"),
    ("markdown", "`pippa train --launcher docker` names no preset"),
    ("markdown", "`pippa presets compare blog overfit`"),
    ("markdown", "`trainer evaluate --model-path CHECKPOINT`"),
    ("markdown", "`pippa train blog --data-config so100_threecams`"),
    ("markdown", "`trainer frobnicate`"),
    ("markdown", "```sh\nuv run trainer finetune \\\n  --dataset-path A --learning-rat 1e-4\n```\n"),
    ("markdown", "`ssh my-gpu-machine uv run pippa data frobnicate`"),
    ("markdown", "`docker exec NAME trainer evaluate --checkpoint latest --everything`"),
    ("markdown", "`docker compose run --rm train-overfit --max-stepz 400`"),
    ("markdown", "`docker compose up train-everything`"),
    ("markdown", "`docker compose down`"),
    ("markdown", "`docker compose frobnicate`"),
    ("markdown", "`pippa data check my-robot --data-config so100_threecams`"),
    ("markdown", "`pippa sweep blog --learning-rates 1e-4 5e-4`"),
    ("markdown", "`python -m trainer.finetune --learning-rat 1e-4`"),
    ("markdown", "`uv run python -m flows.cli data frobnicate`"),
    ("markdown", "`sudo -u pippa uv run pippa data frobnicate`"),
    ("markdown", "`docker compose exec worker pippa runs resumed RUN`"),
    ("markdown", "```text\nnext           pippa checkpoints take smoke/latest my-policy\n```"),
    ("template", '<p>{{ command("pippa runs show " ~ run_id ~ " --page") }}</p>'),
    ("template", "<code>pippa data frobnicate</code>"),
    ("python", 'hint = shlex.join(["pippa", "runs", "resumed", run_id])'),
    ("python", 'argv = [sys.executable, "-m", "trainer.cli", "run", "smokey"]'),
    ("settings", "PORT=1 # `pippa runs frobnicate` shows it"),
    ("settings", "command:\n  - pippa\n  - worker\n  - --frobnicate\n"),
    ("settings", 'test: ["CMD", "pippa", "doctor", "--thorough"]\n'),
    ("settings", "RUN trainer frobnicate\n"),
    ("settings", "ExecStart=/opt/pippa/.venv/bin/pippa worker --frobnicate\n"),
    ("settings", "ExecStart=/usr/bin/docker compose up train-everything\n"),
    ("python", 'raise StoreError("It is damaged.", "`pippa data verify` lists all damage.")'),
    ("python", 'raise StoreError("It is damaged.", "`pippa checkpoints verify` or "\n"`pippa data verify` tells.")'),
    ("python", 'hint = f"To see it: pippa runs display {run_id}"'),
    ("python", 'screen.print("[bold]pippa presets compare blog --html[/]")'),
    ("python", 'def show():\n    """``pippa runs show RUN --page``"""\n'),
    ("python", "x = 1  # `pippa frobnicate` reads it\n"),
    ("settings", "# pippa runs frobnicate\nA=1\n"),
    ("settings", "command: [trainer, doctor, --thorough]\n"),
    ("settings", 'CMD ["trainer", "frobnicate"]\n'),
    ("settings", "run: |\n  exec uv run --no-sync pippa runs resumed RUN\n"),
]
RIGHT = [
    ("markdown", "`pippa data check` is named, `pippa data` too; `pippa` alone and `trainer …` are none."),
    ("markdown", "```sh\nuv run pippa train PRESET [--flag …] [--dry-run]   # a remark\n```\n"),
    ("markdown", "`pippa checkpoints alias release-1 <run id>/<step>`, `pippa checkpoints gc --keep N [--delete]`"),
    ("markdown", "`docker compose --profile '*' down`, `docker compose logs SERVICE`, `docker compose up -d`"),
    ("python", 'hint = f"`pippa data check {path} --data-config {name}` tells; `pippa {words}` is unknown."'),
    ("settings", "args: [trainer, run, --run-id, RUN]\nsecrets: { pippa: keys }\n# the trainer image runs it\n"),
]


@functools.cache
def refused_texts() -> set[str]:
    """Which of the texts above name a command that can't be typed."""
    commands = {text: list(getattr(documented, f"in_{kind}")(text, text)) for kind, text in WRONG + RIGHT}
    said = refusals([each for found in commands.values() for each in found])
    return {text for text, found in commands.items() if any(each in said for each in found)}


@pytest.mark.parametrize(("kind", "text"), WRONG)
def test_a_command_that_does_not_exist_is_noticed(kind, text):
    assert text in refused_texts()


@pytest.mark.parametrize(("kind", "text"), RIGHT)
def test_commands_with_placeholders_are_understood(kind, text):
    assert text not in refused_texts()


def test_the_commands_lists_can_be_typed():
    listed = [f"pippa {command.words} {command.arguments}" for command in COMMANDS]
    listed += [f"trainer {line.strip()}" for line in trainer.USAGE.splitlines() if line.startswith("  ")]
    commands = list(documented.in_settings("\n".join(f"# {line}" for line in listed), "the list"))
    assert len(commands) > 20 and not refusals(commands)


OTHERS_FLAGS = {
    "docker": {
        "--build-arg",
        "--build-context",
        "--builder",
        "--gpus",
        "--group-add",
        "--profile",
        "--secret",
        "--volumes",
    },
    "the robot loop of docs/examples": {"--execute", "--rate", "--timeout"},
    "sky": {"--env", "--use-spot"},
    "upstream's evaluation": {"--action-horizon"},
    "stands for any flag, or any wrong one": {"--flag", "--no-flag", "--lr"},
}
"""Flags that pages name and that are not pippa's, by whose they are."""


@functools.cache
def flags() -> set[str]:
    """Every flag that some command of pippa, trainer, bench or deploy takes."""
    known = {"--help", "--version"}
    for config in (FinetuneConfig, N17Config):
        known |= {flag(name, on=on) for name in config.fields() for on in (True, False)}
    for file in [*CODE, *EXAMPLES]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                known |= {str(each.value) for each in node.args if isinstance(each, ast.Constant)}
    return known


def unknown_flags(text: str) -> set[str]:
    """Flags that stand alone in a code span, ``--holdout 0.1``, and that nothing takes."""
    others = set().union(*OTHERS_FLAGS.values())
    return set(re.findall(r"`(--[a-z][\w-]*)(?!-…)\b[^`\n]*`", text)) - flags() - others


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_a_page_names_exist(page):
    assert not unknown_flags(page.read_text())


def test_a_flag_that_does_not_exist_is_noticed():
    assert unknown_flags("`--frobnicate` and `--max-stepz 5`, not `--max-steps 5`") == {"--frobnicate", "--max-stepz"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_volumes_and_modules_that_are_named_exist(page):
    text = page.read_text()
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for volume in re.findall(r"docker volume rm (\w+)", text):
        assert volume.removeprefix(f"{compose['name']}_") in compose["volumes"], volume
    for module in re.findall(r"python -m ((?:bench|flows|trainer)[\w.]*)", text):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_an_example_imports_exists(page):
    for module, names in re.findall(r"^from ((?:flows|trainer)[\w.]*) import (.+)$", page.read_text(), re.MULTILINE):
        spec = importlib.util.find_spec(module)
        assert spec and spec.origin, module
        known = {each for node in ast.parse(Path(spec.origin).read_text()).body for each in defined(node)}
        assert known >= set(names.split(", ")), module


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module gives it."""
    match node:
        case ast.ClassDef() | ast.FunctionDef():
            return [node.name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name for alias in node.names]
        case ast.Assign():
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(name)):
            return [name]
    return []


def test_every_exit_code_is_explained():
    text = (DOCS / "troubleshooting.md").read_text()
    missing = [code for code in ExitCode if not re.search(rf"^\|.*\b{int(code)}\b.*\|", text, flags=re.MULTILINE)]
    assert not missing
