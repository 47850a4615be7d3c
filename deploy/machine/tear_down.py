#!/usr/bin/env python3
"""Before a machine is deleted: what is on it and nowhere else, and what keeps costing money afterwards.

    sudo deploy/machine/tear_down.py           says it, and changes nothing
    sudo deploy/machine/tear_down.py --stop    first stops trainings (they save and upload), then the stack

Exits with 1 where something would be lost. Python of the system, and nothing beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PULL = "`pippa checkpoints pull NAME FOLDER` from your laptop takes one out (docs/deploy.md)."


def output(*command: str) -> str:
    """What ``command`` prints in the checkout. Ends this program where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def setting(name: str) -> str:
    """A setting as Compose takes it: the shell's, else that of .env."""
    file = ROOT / ".env"
    text = file.read_text() if file.is_file() else ""
    found = re.findall(rf"^{name}=[\"']?([^\"'\s]*)", text, flags=re.MULTILINE)
    return os.environ.get(name) or (found[-1] if found else "")


def size(count: float) -> str:
    """``count`` bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def trainings() -> list[str]:
    """The names of the containers that train."""
    return output("docker", "ps", "--filter", "label=pippa.role", "--format", "{{.Names}}").split()


def in_stack(*command: str) -> str:
    """What ``command`` prints in a container like the worker's, which may be stopped."""
    return output("docker", "compose", "run", "--rm", "--no-deps", "-T", "worker", *command)


def checkpoints() -> list[dict[str, Any]]:
    """What the object store has registered, as `pippa checkpoints list` says it."""
    return json.loads(in_stack("pippa", "checkpoints", "list", "--json"))


def waiting() -> list[str]:
    """Checkpoints on this disk that are not in the object store yet: RUN/STEP."""
    found = in_stack("find", "/var/lib/pippa/runs", "-type", "d", "-path", "*/pending-uploads/checkpoint-*", "-prune")
    return [re.sub(r"^/var/lib/pippa/runs/([^/]+)/.*checkpoint-", r"\1/", line) for line in found.split()]


def volumes() -> list[tuple[str, str]]:
    """The stack's volumes and their sizes."""
    listed = json.loads(output("docker", "system", "df", "--verbose", "--format", "{{json .Volumes}}"))
    return [(each["Name"], each["Size"]) for each in listed if each["Name"].startswith("pippa_")]


def only_here(registered: list[dict[str, Any]], late: list[str], endpoint: str) -> list[str]:
    """Lines that say what is lost with this machine."""
    lines = []
    if not endpoint and registered:
        lines.append(f"{len(registered)} checkpoints are in this machine's MinIO and nowhere else. {PULL}")
        for each in registered:
            names = f"  = {', '.join(each['aliases'])}" if each["aliases"] else ""
            lines.append(f"  {each['name']:<44} {size(each['bytes']):>9}{names}")
    if late:
        where = endpoint or "MinIO"
        lines.append(f"{len(late)} checkpoints wait for {where}: `pippa runs resume RUN` uploads them, or pull them.")
        lines += [f"  {name}" for name in late]
    return lines


def bills(endpoint: str, bucket: str, registered: list[dict[str, Any]]) -> list[str]:
    """Lines that say what is billed once the machine is stopped, and until when."""
    lines = [
        "this machine, until it is deleted: one that is stopped pays for its disk, a fixed address and reservations;",
        "  one that was powered off from inside is billed in full by many clouds until it is deallocated",
        "its disks, where they are not deleted with it; their snapshots, and images made of it",
        "a fixed address, a load balancer, a NAT gateway: each by the hour",
    ]
    if endpoint:
        total = size(sum(each["bytes"] for each in registered))
        lines.append(f"{endpoint}, bucket {bucket}: {len(registered)} checkpoints, at most {total}, with datasets and")
        lines.append("  base models beside them; `pippa checkpoints gc --keep 2` says what may go")
    if registry := setting("PIPPA_REGISTRY"):
        lines.append(f"the images in {registry}")
    return lines


def main() -> int:
    """Print it; 1 where something would be lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stop", action="store_true", help="stop trainings and stack first")
    stop = parser.parse_args().stop
    endpoint, bucket = setting("PIPPA_S3_ENDPOINT"), setting("PIPPA_S3_BUCKET") or "pippa"
    running = trainings()
    if stop and running:
        print(f"Stopping {', '.join(running)}: they save and upload a last checkpoint.", flush=True)
        # The worker first, or it would start them again; the store stays, to be asked below.
        output("docker", "compose", "stop", "worker")
        output("docker", "stop", "--time", setting("PIPPA_STOP_GRACE") or "300", *running)
    registered, late = checkpoints(), waiting()
    lost = only_here(registered, late, endpoint)
    print("Only on this machine:", *(lost or ["nothing"]), sep="\n  ")
    if running and not stop:
        print(f"\nStill running: {', '.join(running)}. --stop lets them save and upload first.")
    print("\nOn its disk, and gone with it:", *(f"{name:<20} {used:>9}" for name, used in volumes()), sep="\n  ")
    print("\nKeeps costing:", *bills(endpoint, bucket, registered), sep="\n  ")
    if stop:
        output("systemctl", "disable", "--now", "pippa", "pippa-spot")
        print("\nThe stack is stopped. Delete the machine with its disks in your cloud; a stopped one still costs.")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
