#!/usr/bin/env python3
"""Wait for the notice that the cloud takes this machine away, then run a command: spot_notice.py systemctl stop pippa

It asks the metadata service of AWS, Google Cloud and Azure, whichever answers. Exits with 0 where there is none, since
other clouds and machines of one's own tell in other ways: there, `systemctl stop pippa` or a shutdown does the same.
PIPPA_METADATA_URL is its address, for tests. Python of the system, and nothing beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

URL = os.environ.get("PIPPA_METADATA_URL", "http://169.254.169.254")
LOOK_SECONDS = 5.0
"""As AWS recommends; its notice comes two minutes before the end, those of the others 30 seconds."""
FIRST_SECONDS = 60.0
"""For the metadata service to answer after the machine's start."""
TIMEOUT_SECONDS = 5.0
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
AZURE_ENDS = {"Preempt", "Terminate", "Redeploy", "Reboot"}
"""Azure's events that end what runs here. Freeze is a pause of seconds."""


def ask(path: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """The answer's text, None for 404 (no such thing, or not now). Raises ``OSError``."""
    request = urllib.request.Request(URL + path, headers=headers, method=method)
    try:
        with NO_PROXY.open(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def aws() -> str | None:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html, by IMDSv2."""
    token = ask("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    action = ask("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token or ""})
    return action and "AWS: {action} at {time}".format(**json.loads(action))


def google() -> str | None:
    """https://cloud.google.com/compute/docs/instances/create-use-preemptible#detecting_if_a_vm_was_preempted"""
    preempted = ask("/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return "Google Cloud: preempted" if preempted and preempted.strip() == "TRUE" else None


def azure() -> str | None:
    """https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events"""
    headers = {"Metadata": "true"}
    events = json.loads(ask("/metadata/scheduledevents?api-version=2020-07-01", headers) or "{}").get("Events", [])
    name = ask("/metadata/instance/compute/name?api-version=2021-02-01&format=text", headers)
    for event in events:  # of every machine of its availability set
        if event["EventType"] in AZURE_ENDS and name in event["Resources"]:
            return f"Azure: {event['EventType']} at {event['NotBefore'] or 'once'}"
    return None


CLOUDS: dict[str, tuple[Callable[[], str | None], tuple[str, dict[str, str], str]]] = {
    "AWS": (aws, ("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")),
    "Google Cloud": (google, ("/computeMetadata/v1/instance/id", {"Metadata-Flavor": "Google"}, "GET")),
    "Azure": (
        azure,
        ("/metadata/instance/compute/name?api-version=2021-02-01&format=text", {"Metadata": "true"}, "GET"),
    ),
}
"""The cloud's notice, and what only its metadata service answers."""


def cloud() -> str | None:
    """The cloud whose machine this is; None where no metadata service of those answers."""
    deadline = time.monotonic() + FIRST_SECONDS
    while True:
        for name, (_, probe) in CLOUDS.items():
            try:
                if ask(*probe):
                    return name
            except OSError:
                pass
        if time.monotonic() > deadline:
            return None
        time.sleep(LOOK_SECONDS)


def main(command: list[str]) -> int:
    """Wait for the notice and run ``command``; its exit code."""
    name = cloud()
    if name is None:
        print("No metadata service of AWS, Google Cloud or Azure: this machine gets no spot notice.")
        return 0
    print(f"{name}: waiting for a notice.", flush=True)
    notice, reported = CLOUDS[name][0], ""
    while True:
        try:
            text = notice()
        except (OSError, ValueError, KeyError) as error:  # away for a moment, or it limits how often it is asked
            if reported != str(error):
                reported = str(error)
                print(f"{name}: {reported}", file=sys.stderr, flush=True)
            text = None
        if text:
            print(f"{text}. {' '.join(command)}", flush=True)
            return subprocess.run(command, check=False).returncode
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
