"""The metadata services of AWS, Google Cloud and Azure, as far as a machine asks them whether it is taken away.

Statuses, headers and bodies are those that the clouds' own pages show:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html,
https://cloud.google.com/compute/docs/instances/create-use-preemptible and
https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events.

    python -m tests.support.metadata_service aws 8080 /tmp/notice    serves a notice once the file is there
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "AQAEAEXAMPLE=="
MACHINE = "pippa-spot"
AZURE_EVENT = {
    "EventId": "C7061BAC-AFDC-4513-B24B-AA5F13A16123",
    "EventStatus": "Scheduled",
    "EventType": "Preempt",
    "ResourceType": "VirtualMachine",
    "Resources": [MACHINE],
    "NotBefore": "Mon, 11 Apr 2022 22:26:58 GMT",
    "Description": "Virtual machine is being preempted.",
    "EventSource": "Platform",
    "DurationInSeconds": -1,
}


class Metadata(ThreadingHTTPServer):
    """One cloud's service. ``notice`` says whether the machine is being taken away."""

    def __init__(self, cloud: str, notice: Callable[[], bool], port: int = 0, **event: Any) -> None:
        self.cloud, self.notice, self.event = cloud, notice, {**AZURE_EVENT, **event}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_GET(self) -> None:
        self._answer("GET")

    @property
    def metadata(self) -> Metadata:
        assert isinstance(self.server, Metadata)
        return self.server

    def _answer(self, method: str) -> None:
        self.metadata.asked.append(self.path)
        status, body = getattr(self, f"_{self.metadata.cloud}")(method, self.path)
        self.send_response(status)
        if self.metadata.cloud == "google":
            self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def _aws(self, method: str, path: str) -> tuple[int, str]:
        if path == "/latest/api/token":
            if method != "PUT" or "X-aws-ec2-metadata-token-ttl-seconds" not in self.headers:
                return 400 if method == "PUT" else 405, ""
            return 200, TOKEN
        if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return 401, ""  # IMDSv1 is off, as on every machine made since 2024
        if path == "/latest/meta-data/spot/instance-action" and self.metadata.notice():
            return 200, '{"action": "terminate", "time": "2017-09-18T08:22:00Z"}'
        return 404, ""

    def _google(self, method: str, path: str) -> tuple[int, str]:
        if self.headers.get("Metadata-Flavor") != "Google":
            return 403, ""
        if path == "/computeMetadata/v1/instance/id":
            return 200, "5929292034567890123"
        if path == "/computeMetadata/v1/instance/preempted":
            return 200, "TRUE" if self.metadata.notice() else "FALSE"
        return 404, ""

    def _azure(self, method: str, path: str) -> tuple[int, str]:
        if self.headers.get("Metadata") != "true":
            return 400, '{"error": "Bad request. api-version was not specified in the request"}'
        if path.startswith("/metadata/instance/compute/name?") and "format=text" in path:
            return 200, MACHINE
        if path == "/metadata/scheduledevents?api-version=2020-07-01":
            return 200, json.dumps(
                {"DocumentIncarnation": 2, "Events": [self.metadata.event] if self.metadata.notice() else []}
            )
        return 404, ""


if __name__ == "__main__":
    cloud, port, file = sys.argv[1:]
    Metadata(cloud, Path(file).exists, int(port)).serve_forever()
