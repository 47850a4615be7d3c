"""What compose.yaml, the Dockerfiles and .env.example promise, read off the files; tests/e2e runs them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.credentials import CREDENTIALS
from trainer.presets import PRESETS

ROOT = Path(__file__).parents[1]
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(?::[-+]([^}]*))?\}")
SERVICES_OF_PRESETS = {
    "train-smoke": "smoke",
    "train-overfit": "overfit-demo",
    "train-overfit-long": "overfit-long",
    "train-blog": "blog",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def documented() -> dict[str, str]:
    """Every setting of .env.example with the value its line shows."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    found = [re.match(r"(?:# )?([A-Z][A-Z0-9_]+)=([^ ]*)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_each_preset_has_a_service(compose: dict[str, Any]) -> None:
    trains = {name: service["entrypoint"][3] for name, service in compose["services"].items() if "train-" in name}
    assert trains == SERVICES_OF_PRESETS
    assert set(trains.values()) == set(PRESETS)


def test_ports_are_open_to_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports), ports


def test_other_services_reach_prefect(compose: dict[str, Any]) -> None:
    prefect = compose["services"]["prefect"]
    assert prefect["command"][-2:] == ["--host", "0.0.0.0"]
    assert "PREFECT_API_AUTH_STRING_FILE" in prefect["environment"]


def test_no_service_gets_a_secret_as_a_variable(compose: dict[str, Any]) -> None:
    secret = {credential.setting for credential in CREDENTIALS}
    for name, service in compose["services"].items():
        environment = service.get("environment", {})
        assert not secret & set(environment), name
        for variable, value in environment.items():
            assert not secret & {match[0] for match in VARIABLE.findall(str(value))}, (name, variable)


def test_the_credentials_service_is_given_every_secret_that_the_user_may_set(compose: dict[str, Any]) -> None:
    lines = compose["configs"]["given"]["content"].splitlines()
    assert lines == [f"{credential.setting}=${{{credential.setting}:-}}" for credential in CREDENTIALS]


def test_the_files_that_services_read_are_those_that_are_written(compose: dict[str, Any]) -> None:
    written = {f"/run/pippa/{credential.file}" for credential in CREDENTIALS}
    read = {
        value
        for service in compose["services"].values()
        for name, value in service.get("environment", {}).items()
        if name.endswith("_FILE")
    }
    assert read == written


def test_every_setting_of_the_stack_is_documented_with_its_default(documented: dict[str, str]) -> None:
    text = (ROOT / "compose.yaml").read_text()
    for name, default in VARIABLE.findall(text):
        assert name in documented, f"{name} is missing in .env.example"
        if default and "://" not in default and default != "another-store":
            assert documented[name] == default, name


def test_dockerfiles_are_clean() -> None:
    files = [*(ROOT / "docker").glob("*.Dockerfile"), *(ROOT / ".ci").rglob("*.Dockerfile")]
    assert len(files) >= 3
    done = subprocess.run(["hadolint", *files], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda file: file.stem)
def test_images_are_labelled_and_give_up_root(file: Path) -> None:
    text = file.read_text()
    for label in ("title", "source", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in text, label
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users[-1] == "1000"


def test_the_build_context_holds_what_is_named_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert not any(line.startswith(("!.env", "!.pippa", "!tests")) for line in lines)
