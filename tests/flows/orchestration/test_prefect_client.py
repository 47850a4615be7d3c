"""What Prefect's client says when it is refused, on a real server."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow
from prefect.context import refresh_global_settings_context
from prefect.states import Running

from flows.orchestration.prefect_client import BUSY_SECONDS, prefect_client, server_time, sync_client
from tests.support.waiting import until
from trainer.errors import PippaError, ServerError


@flow
def idle() -> None:
    """A flow to have a flow run of."""


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PREFECT_API_AUTH_STRING", "me:guess", "refuses the password"),
        ("PREFECT_API_URL", "http://127.0.0.1:9/api", "http://127.0.0.1:9/api does not answer"),
    ],
)
def test_a_refusal_has_a_cure(stack, monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    refresh_global_settings_context()
    with pytest.raises(PippaError, match=said) as refused, prefect_client() as client:
        client.read_work_pools()
    assert refused.value.hint


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'"2.20.1"', "has the version 2.20.1"),
        (200, b'"10.0.0"', "has the version 10.0.0"),
        (200, b"<html>a router</html>", "is not the API of a Prefect server"),
        (404, b"{}", "is not the API of a Prefect server"),
        (500, b"{}", "answers 500"),
    ],
)
def test_a_server_that_is_not_prefect_of_this_version_is_said(monkeypatch, status, body, said):
    class Strange(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with HTTPServer(("127.0.0.1", 0), Strange) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        refresh_global_settings_context()
        with pytest.raises(ServerError, match=said) as refused, prefect_client():
            pass
        server.shutdown()
    assert refused.value.hint and refused.value.exit_code == 4


def test_a_state_is_dated_by_the_servers_clock_whatever_its_senders_says(stack):
    second = timedelta(seconds=1)
    with sync_client() as client:
        before = server_time(client)
        sent = Running(timestamp=before - timedelta(hours=12))
        dated = client.read_flow_run(client.create_flow_run(idle, state=sent).id).state
        # The header is renewed once a second, later where the server is busy.
        assert dated is not None and before - second <= dated.timestamp
        until(lambda: dated.timestamp <= server_time(client) + 2 * second)


def test_a_busy_server_is_asked_again_soon(monkeypatch):
    answers, pauses = [503, 503, 200], []

    class Busy(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    monkeypatch.setenv("PREFECT_CLIENT_CSRF_SUPPORT_ENABLED", "false")
    refresh_global_settings_context()
    # Of that module alone: other threads sleep too.
    monkeypatch.setattr("prefect.client.base.time", SimpleNamespace(**{**vars(time), "sleep": pauses.append}))
    try:
        with sync_client() as client:
            client.update_flow_run_labels(uuid4(), {"a": "b"})
    finally:
        server.shutdown()
        server.server_close()
    assert answers == []
    first, second = pauses
    assert BUSY_SECONDS <= first < 2 * BUSY_SECONDS and 4 * BUSY_SECONDS <= second < 8 * BUSY_SECONDS
