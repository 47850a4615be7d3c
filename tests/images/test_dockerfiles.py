"""What the Dockerfiles say of themselves, and docs/engines.md of those of upstream's engine. Needs no Docker daemon."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from flows.views.dry_run import upstream_command_text
from trainer.config.argv import resolve
from trainer.config.finetune_config import UPSTREAM_DEFAULTS
from trainer.config.flags import flag

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "docker" / f"{engine}.Dockerfile" for engine in ("isaac-uv", "isaac-conda", "isaac-n17")]
PAGE = (ROOT / "docs" / "engines.md").read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_build_argument_is_explained_with_its_default(file):
    arguments = re.findall(r'^ARG (\w+)="?([^"\n]*)"?$', file.read_text(), flags=re.MULTILINE)
    assert len(arguments) > 8
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)`", PAGE, flags=re.MULTILINE))
    if file.stem == "isaac-n17":
        rows |= dict(re.findall(r"^\| `(\w+)` \| `[^`]+` \(isaac-n17: `([^`]+)`\)", PAGE, flags=re.MULTILINE))
    for name, default in arguments:
        assert rows.get(name, "") == default, name


def revision(checkout: Path) -> str:
    command = ["sh", str(ROOT / "docker" / "git-revision"), str(checkout)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_revision_is_that_of_the_checkout(tmp_path):
    assert revision(tmp_path) == ""

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet", "--initial-branch", "main")
    assert revision(tmp_path) == "", "no commit yet: the branch is in no file"
    git("commit", "--quiet", "--allow-empty", "--message", "one")
    head = git("rev-parse", "HEAD")
    assert revision(tmp_path) == head
    git("pack-refs", "--all")
    assert revision(tmp_path) == head
    git("checkout", "--quiet", "--detach")
    assert revision(tmp_path) == head


def test_those_of_a_generation_take_the_same_upstream():
    said = [re.findall(r"^ARG (ISAAC_\w+=.*)$", file.read_text(), flags=re.MULTILINE) for file in FILES]
    assert said[0] == said[1]
    for each in said:
        assert len(each) == 4 and len(set(each)) == 2  # in the stage that fetches it and in the labels


def test_the_driver_that_is_required_is_that_of_the_cuda_in_the_image():
    (locked,) = re.findall(r'^name = "cuda-toolkit"\nversion = "(\d+)\.', (ROOT / "uv.lock").read_text(), re.MULTILINE)
    (required,) = re.findall(r'NVIDIA_REQUIRE_CUDA="cuda>=(\d+)\.0"', (ROOT / "docker/trainer.Dockerfile").read_text())
    assert required == locked
    assert required == "13", "README.md, docs/deploy.md and docs/troubleshooting.md name the driver of CUDA 13"


def test_the_page_names_the_defaults_that_moved():
    for name, value in UPSTREAM_DEFAULTS.items():
        assert re.search(rf"`{flag(name)}` \w+ → {value}\b", PAGE), name
    _, config, provenance = resolve("blog", [])
    assert upstream_command_text(config, provenance).startswith("# pinned")
