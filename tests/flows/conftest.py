"""Fixtures for what needs Prefect: one real server per test process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from flows.embedded.prefect import server_environment
from flows.settings import prefect_environment
from tests.support.memory import in_memory
from tests.support.once import once
from trainer.config.settings import S3Settings

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import sys
from flows.embedded.prefect import serving
with serving() as api:
    print(*api.to_environ().values(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def made_prefect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Prefect that was started once, to be copied: making its tables takes most of a start."""

    def start(home: Path) -> None:
        code = "from flows.embedded.prefect import serving\nwith serving(): pass"
        environ = server_environment(home, {"PATH": os.environ["PATH"]})
        subprocess.run([sys.executable, "-c", code], env=environ, cwd=ROOT, check=True)

    return once(tmp_path_factory, "made-prefect", start) / "prefect"


@pytest.fixture(scope="session")
def prefect_environ(made_prefect: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The variables that lead to a real, embedded Prefect server; it ends with its stdin."""
    with in_memory(tmp_path_factory.mktemp("prefect-home")) as home:
        shutil.copytree(made_prefect, home / "prefect")
        environ = {
            **server_environment(home, {"PATH": os.environ["PATH"]}),
            # Heartbeats are seen five seconds late otherwise. Written more often, they meet other writers: SQLite then
            # refuses, and Prefect asks again two seconds later.
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
        }
        command = [sys.executable, "-c", SERVER]
        with subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as server:
            assert server.stdout
            auth, url = sorted(server.stdout.readline().split(), key=lambda word: word.startswith("http"))
            yield {**prefect_environment(home, {}), "PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": auth}
            server.communicate()


@pytest.fixture
def stack(prefect_environ, s3_settings: S3Settings, tmp_path, monkeypatch) -> Mapping[str, str]:
    """This process works with a real Prefect server and a bucket of this test's own; ``PIPPA_HOME`` is in tmp_path."""
    environ = {
        **prefect_environ,
        **s3_settings.to_environ(),
        "PIPPA_HOME": str(tmp_path / "home"),
        # A training that a test killed holds its place for another minute.
        "PIPPA_TRAININGS_PER_GPU": "99",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    return environ
