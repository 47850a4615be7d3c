"""Pages that are made from the code, links between pages, and commands: what a page or a message names can be typed."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from flows.cli import COMMANDS
from flows.views.presets_table import comparison_markdown
from tests.support import documented
from tests.support.documented import Named
from tests.support.parsing import problems
from trainer import cli as trainer
from trainer.config.presets import PRESETS
from trainer.errors import ExitCode

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md")]
CODE = [file for folder in ("flows", "trainer", "bench") for file in sorted((ROOT / folder).rglob("*.py"))]
SETTINGS = [
    file
    for pattern in (".env.example", "*.yaml", "deploy/*", "docker/*", ".ci/*", ".ci/images/*", ".github/workflows/*")
    for file in sorted(ROOT.glob(pattern))
    if file.is_file()
]
NAMING = [*PAGES, ROOT / "tests/e2e/README.md", *SETTINGS, *CODE]
"""Every file that tells a person what to type."""


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
    for each in commands:
        if each.words[0] == "docker":
            verb, services = documented.compose_services(each.words)
            if unknown := [name for name in services if name not in documented.SERVICES]:
                found[each] = f"no services of compose.yaml: {unknown}"
            if verb not in documented.COMPOSE_VERBS:
                found[each] = f"no command of Compose: {verb}"
            if verb in ("stop", "down") and not services and "--profile" not in each.words:
                found[each] = "without --profile '*' trainings go on without their store"
    return found


@pytest.mark.parametrize("file", NAMING, ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_that_are_named_can_be_typed(file):
    assert not [f"{each}\n{refused()[each]}" for each in named()[file] if each in refused()]


def test_commands_are_found_in_every_kind_of_file():
    found = {file.relative_to(ROOT).as_posix() for file, commands in named().items() if commands}
    pages = {f"docs/{name}.md" for name in ("checkpoints", "data", "deploy", "schedule", "stack", "train")}
    settings = {"compose.yaml", "deploy/kubernetes-job.yaml", "deploy/skypilot.yaml", "docker/trainer.Dockerfile"}
    code = {"flows/commands/runs.py", "flows/views/report.py", "trainer/store/snapshots.py", "trainer/runner/run.py"}
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
    ("markdown", "`trainer frobnicate`"),
    ("markdown", "```sh\nuv run trainer finetune \\\n  --dataset-path A --learning-rat 1e-4\n```\n"),
    ("markdown", "`docker compose run --rm train-overfit --max-stepz 400`"),
    ("markdown", "`docker compose up train-everything`"),
    ("markdown", "`docker compose down`"),
    ("markdown", "`docker compose frobnicate`"),
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
        for name in names.split(", "):
            assert re.search(rf"^(?:class|def) {name}\b|^{name}\b.* = ", Path(spec.origin).read_text(), re.MULTILINE), (
                name
            )


def test_every_exit_code_is_explained():
    text = (DOCS / "troubleshooting.md").read_text()
    missing = [code for code in ExitCode if not re.search(rf"^\|.*\b{int(code)}\b.*\|", text, flags=re.MULTILINE)]
    assert not missing
