"""deploy/machine/spot_notice.py against what the clouds' metadata services answer."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.metadata_service import Metadata
from tests.support.waiting import PATIENCE, until

SCRIPT = Path(__file__).parents[2] / "deploy" / "machine" / "spot_notice.py"


@contextmanager
def metadata(cloud: str, notice: threading.Event, **event: Any) -> Generator[Metadata]:
    with Metadata(cloud, notice.is_set, **event) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def script(monkeypatch: pytest.MonkeyPatch, server: Metadata, first_seconds: float = PATIENCE) -> ModuleType:
    spec = importlib.util.spec_from_file_location("spot_notice", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module, "FIRST_SECONDS", first_seconds)
    return module


@pytest.mark.parametrize(
    ("cloud", "name", "said"),
    [
        ("aws", "AWS", "AWS: terminate at 2017-09-18T08:22:00Z"),
        ("google", "Google Cloud", "Google Cloud: preempted"),
        ("azure", "Azure", "Azure: Preempt at Mon, 11 Apr 2022 22:26:58 GMT"),
    ],
)
def test_a_notice_runs_the_command_once(monkeypatch, tmp_path, capfd, cloud, name, said):
    notice, ran = threading.Event(), tmp_path / "ran"
    with metadata(cloud, notice) as server:
        notices = script(monkeypatch, server)
        assert notices.cloud() == name
        codes: list[int] = []
        command = ["sh", "-c", f"echo stopped >> {ran}; exit 3"]
        thread = threading.Thread(target=lambda: codes.append(notices.main(command)))
        thread.start()
        asked = len(server.asked)
        until(lambda: len(server.asked) > asked + 6, "several looks")
        assert not ran.exists() and thread.is_alive()
        notice.set()
        thread.join(PATIENCE)
    assert codes == [3] and ran.read_text() == "stopped\n"
    assert said in capfd.readouterr().out


@pytest.mark.parametrize("event", [{"EventType": "Freeze"}, {"Resources": ["another-machine"]}])
def test_an_event_of_azure_that_ends_nothing_here_is_none(monkeypatch, event):
    notice = threading.Event()
    notice.set()
    with metadata("azure", notice, **event) as server:
        assert script(monkeypatch, server).azure() is None


def test_where_no_metadata_service_answers_it_says_so_and_ends(monkeypatch, capfd):
    with metadata("aws", threading.Event()) as server:
        pass  # closed: nobody listens there now
    assert script(monkeypatch, server, first_seconds=0.2).main(["false"]) == 0
    assert "gets no spot notice" in capfd.readouterr().out


def test_it_runs_with_the_systems_python_and_through_an_outage(tmp_path):
    """As the unit starts it; the service limits how often it is asked, or is away for a moment."""
    notice, ran = threading.Event(), tmp_path / "ran"
    with metadata("google", notice) as server:
        answer, server.notice = server.notice, lambda: 1 / 0  # type: ignore[assignment,return-value]
        environ = {**os.environ, "PIPPA_METADATA_URL": f"http://127.0.0.1:{server.server_port}"}
        process = subprocess.Popen(
            [sys.executable, "-I", SCRIPT, "touch", ran], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            until(lambda: "/computeMetadata/v1/instance/preempted" in server.asked, "the first look")
            server.notice = answer
            notice.set()
            assert process.wait(PATIENCE) == 0 and ran.exists()
        finally:
            process.kill()
            process.communicate()
