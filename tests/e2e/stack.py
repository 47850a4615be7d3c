"""A fresh clone of this checkout with its compose stack, used as a person uses it: through command lines."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.ports import free_ports
from tests.support.trusted import trusted
from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
OUR_IMAGES = ("trainer", "flows", "minio", "isaac-uv", "isaac-conda", "isaac-n17")
EXTRA_CAS = Path("/usr/local/share/ca-certificates")
ALL_CAS = Path("/etc/ssl/certs/ca-certificates.crt")
# Prefect looks for new schedules once a minute.
OVERRIDE = """\
services:
  prefect:
    environment:
      PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS: "5"
"""


class Stack:
    """One compose project. ``times`` is what each stage took, for the table at the end of the test run."""

    def __init__(self, folder: Path) -> None:
        self.project = f"pippa-e2e-{secrets.token_hex(3)}"
        self.clone = folder / "pippa"
        self.times: list[tuple[str, float]] = []
        self._clone()
        self.prefect_port, self.minio_port, self.zmq_port, self.http_port = free_ports(4)
        self.images = {name: f"{self.project}/{name}:local" for name in OUR_IMAGES}
        settings = {
            "COMPOSE_PROJECT_NAME": self.project,
            "PIPPA_PREFECT_PORT": str(self.prefect_port),
            "PIPPA_MINIO_PORT": str(self.minio_port),
            "PIPPA_SERVE_PORT": str(self.zmq_port),
            "PIPPA_SERVE_HTTP_PORT": str(self.http_port),
            **{f"PIPPA_{name.replace('-', '_').upper()}_IMAGE": tag for name, tag in self.images.items()},
            **private_ca(),
        }
        (self.clone / "compose.override.yaml").write_text(OVERRIDE)
        (self.clone / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def compose(
        self, *arguments: str, stage: str | None = None, settings: Mapping[str, str] | None = None, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        """``docker compose ARGUMENTS`` in the clone, with ``settings`` in the shell's environment."""
        return self._run(["docker", "compose", *arguments], stage, settings, timeout)

    def pippa(
        self, *arguments: str, stage: str | None = None, settings: Mapping[str, str] | None = None, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        """``pippa ARGUMENTS`` on the host, in the clone."""
        return self._run([sys.executable, "-m", "flows.cli", *arguments], stage, settings, timeout)

    def checkpoints(self, *run: str) -> list[str]:
        """Names of the registered checkpoints, of one run where it is given, by the command line of the host."""
        listed = self.pippa("checkpoints", "list", *run, "--json")
        assert listed.returncode == 0, listed.stdout
        return [each["name"] for each in json.loads(listed.stdout)]

    def containers(self) -> list[dict[str, Any]]:
        """``docker inspect`` of this project's services, stopped ones too."""
        listed = _output("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}").split()
        return json.loads(_output("docker", "inspect", *listed)) if listed else []

    def trainings(self) -> list[str]:
        """Names of the containers that flows of this stack launched."""
        listed = _output("docker", "ps", "-a", "--filter", "label=pippa.role", "--format", "{{.Names}} {{.Networks}}")
        return [line.split()[0] for line in listed.splitlines() if f"{self.project}_default" in line]

    def end_trainings(self) -> None:
        """End what still trains: in good order, so that nobody starts it again; where that fails, by force."""
        if not self.trainings():
            return
        with contextlib.suppress(httpx.HTTPError, pytest.fail.Exception), self.api() as api:
            running = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}}}
            for run in api.post("/flow_runs/filter", json=running).raise_for_status().json():
                api.post(f"/flow_runs/{run['id']}/set_state", json={"state": {"type": "CANCELLING"}})
            until(lambda: not self.trainings(), seconds=60)
        if left := self.trainings():
            _output("docker", "rm", "-f", *left)

    def shown(self, container: str) -> str:
        """What ``container`` has printed so far."""
        done = subprocess.run(
            ["docker", "logs", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.stdout

    def api(self) -> httpx.Client:
        """Prefect's API, signed in."""
        auth = (self.clone / ".pippa/stack/prefect_api_auth_string").read_text()
        user, _, password = auth.partition(":")
        address = f"http://127.0.0.1:{self.prefect_port}/api"
        return httpx.Client(base_url=address, auth=(user, password), timeout=PATIENCE, verify=trusted())

    def remove(self) -> None:
        """Containers, volumes and images of this project."""
        listed = _output("docker", "ps", "-aq", "--filter", f"network={self.project}_default").split()
        if listed:
            _output("docker", "rm", "-f", *listed)
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")
        subprocess.run(["docker", "rmi", "-f", *self.images.values()], capture_output=True, check=False)

    def _clone(self) -> None:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.clone)], check=True)
        changed = _output("git", "-C", str(ROOT), "ls-files", "-mo", "--exclude-standard").splitlines()
        for name in changed:
            if (ROOT / name).is_file():
                (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.clone / name)

    def _environ(self, settings: Mapping[str, str] | None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPPA_", "PREFECT_"))}
        return {**kept, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1", **(settings or {})}

    def _run(
        self, command: Sequence[str], stage: str | None, settings: Mapping[str, str] | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        began = time.monotonic()
        process = subprocess.Popen(
            list(command),
            cwd=self.clone,
            env=self._environ(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            shown, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # Compose is a child of docker and holds the pipe: killing docker alone would leave us reading forever.
            os.killpg(process.pid, signal.SIGKILL)
            shown, _ = process.communicate()
            pytest.fail(f"{' '.join(command)} did not end within {timeout:.0f} s:\n{shown[-3000:]}")
        done = subprocess.CompletedProcess(command, process.returncode, shown)
        if stage:
            self.times.append((stage, time.monotonic() - began))
        return done


def private_ca() -> dict[str, str]:
    """The setting that a machine behind a proxy with its own CA needs, where this is one."""
    return {"PIPPA_CA_BUNDLE": str(ALL_CAS)} if list(EXTRA_CAS.glob("*.crt")) else {}


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
