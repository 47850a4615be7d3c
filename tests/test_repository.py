"""What the repository says of itself: architecture, licence, version, and what checks it before a commit and in CI."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from trainer.version import version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def test_the_version_is_that_of_pyproject_and_has_its_place_in_the_changelog():
    assert version() == PROJECT["version"], "uv sync"
    assert re.search(rf"^## \[{re.escape(version())}\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/differences.md", "README.md"])
def test_files_that_a_page_names_exist(page):
    named = re.findall(
        r"`((?:flows|trainer|tests|docker|docs|deploy|bench|\.ci|\.github)/[\w./-]*)`", (ROOT / page).read_text()
    )
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_room_is_in_the_architecture():
    page = (ROOT / "docs/architecture.md").read_text()
    table = set(re.findall(r"^\| `([\w/]+)/` \|", page, flags=re.MULTILINE))
    rooms = {f"{file.parent.parent.name}/{file.parent.name}" for file in ROOT.glob("*/*/__init__.py")}
    assert table == {room for room in rooms if room.startswith(("flows/", "trainer/"))}


def test_every_package_says_that_it_is_typed():
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {file.parent.name for file in ROOT.glob("*/py.typed")} == set(packages)


def test_the_licence_is_the_same_everywhere():
    assert (ROOT / "LICENSE").read_text().strip().startswith("Apache License\n                           Version 2.0")
    assert PROJECT["license"] == "Apache-2.0"
    for file in DOCKERFILES:
        (label,) = re.findall(r'org\.opencontainers\.image\.licenses="([^"]+)"', file.read_text())
        # MinIO's server is its makers' own.
        assert label == ("AGPL-3.0-only" if file.name == "minio.Dockerfile" else PROJECT["license"]), file.name


def test_an_image_gets_from_the_checkout_what_it_copies():
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for file in DOCKERFILES:
        text = file.read_text()
        copied = {
            name
            for names in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", text, re.MULTILINE)
            for name in names.split()
        }
        mounted = set(re.findall(r"--mount=type=bind,source=([^,\s]+)", text))
        for path in copied | mounted:
            assert path.split("/")[0] in let_in and (ROOT / path).exists(), f"{file.name}: {path}"
        if "uv sync" in text:
            assert {"LICENSE", "NOTICE"} <= copied, f"{file.name}: the wheel it builds has its licence"


def test_hooks_check_what_ci_checks():
    ci = (ROOT / ".ci/run").read_text()
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    assert all(repository["repo"] == "local" for repository in config["repos"])  # nothing is downloaded
    assert sorted(entries) == sorted(
        line.removesuffix(" --check") for line in re.findall(r"^uv run (?:ruff|pyrefly) .*$", ci, re.MULTILINE)
    )


def test_the_workflow_runs_ci_and_once_a_week_the_newest_dependencies():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    triggers = workflow[True]  # YAML takes `on` for a truth value
    assert {"push", "pull_request", "schedule"} <= triggers.keys()
    steps = [step for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    for step in steps:
        subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)
        for script in re.findall(r"(?<!/)\.ci/\w+", step["run"]):
            assert (ROOT / script).is_file()
    assert workflow["jobs"]["ci"]["steps"][-1]["run"] == ".ci/run"
    (newest,) = [step for step in steps if "uv lock --upgrade" in step["run"]]
    assert "schedule" in newest["if"]


def test_the_workflow_tries_every_python_that_pippa_is_for():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest, above = map(int, re.findall(r"3\.(\d+)", project["requires-python"]))
    assert f"/usr/bin/python3.{lowest}" in (ROOT / ".ci/run").read_text()
    others = [f"3.{minor}" for minor in range(lowest + 1, above)]
    assert workflow["jobs"]["pythons"]["strategy"]["matrix"]["python"] == others


def test_the_workflow_pulls_every_base_image():
    """As the shell in it finds them."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    (pull,) = [step["run"] for step in workflow["jobs"]["ci"]["steps"] if "docker pull" in step.get("run", "")]
    script = pull.replace('PATH="$(.ci/engine):$PATH"', 'docker() { echo "$3"; }; export -f docker').replace(
        "xargs -n 1 docker", "xargs -n 1 bash -c 'docker \"$@\"' docker"
    )
    pulled = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    images = {
        image
        for file in DOCKERFILES
        for image in re.findall(r"^ARG (?:PYTHON|UV|GO|DEBIAN)_IMAGE=(.+)$", file.read_text(), re.MULTILINE)
    }
    (postgres,) = re.findall(r"PIPPA_POSTGRES_IMAGE:-([^}]+)\}", (ROOT / "compose.yaml").read_text())
    assert set(pulled.split()) == images | {postgres}
