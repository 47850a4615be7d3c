"""``pippa doctor``: what stands between this machine and a training, beside what ``trainer doctor`` sees."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from flows import compose_discovery
from flows.commands import Add, add_json
from flows.prefect_server import require_server
from trainer.config.presets import all_presets
from trainer.config.settings import pippa_home
from trainer.errors import PippaError
from trainer.runner import doctor
from trainer.runner.findings import Finding, Look, look, problem, tell

MIN_COMPOSE = (2, 23, 1)
"""Of Docker Compose: the first with inline configs, which compose.yaml uses."""
_PORTS = {"PIPPA_MINIO_PORT": 9000, "PIPPA_PREFECT_PORT": 4200}


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa doctor``."""
    parser = add(
        "doctor",
        look_around,
        description="Say in seconds what stands between this machine and a training, each with its cure. Ends with the "
        "exit code of the first problem.",
    )
    known = list(all_presets())
    parser.add_argument("preset", metavar="PRESET", nargs="?", choices=known, help="compare with this preset's needs")
    add_json(parser)


def look_around(arguments: Namespace) -> int:
    """``pippa doctor [PRESET]``"""
    compose_discovery.adopt(pippa_home())
    preset = all_presets()[arguments.preset] if arguments.preset else None
    checks: list[Look] = [*doctor.checks(preset), docker, compose, prefect, partial(ports, os.environ.copy())]
    return tell(look(checks), as_json=arguments.json)


def docker() -> Finding:
    """The Docker daemon, and whether it hands out GPUs. Only ``--launcher docker`` and the compose stack need it."""
    from docker.errors import DockerException

    from flows.launch.docker.docker_client import UNREACHABLE, connect, daemon_address, is_podman, unreachable
    from flows.launch.docker.gpus import TOOLKIT, offered

    try:
        client = connect()
    except PippaError as error:
        found = problem("Docker", error)
        return Finding(found.part, f"{found.says} Trainings without --launcher docker need none.", "note", found.cure)
    try:
        info, podman = client.info(), is_podman(client)
    except (DockerException, *UNREACHABLE) as error:
        found = problem("Docker", unreachable(daemon_address(), error))
        return Finding(found.part, found.says, "note", found.cure)
    finally:
        client.close()
    version, how = info.get("ServerVersion", "?"), offered(info)
    if podman:
        cure = "Set DOCKER_HOST to a Docker daemon, or train with --launcher process."
        return Finding("Docker", f"it is Podman {version}, with which pippa is not tested", "note", cure)
    if how:
        return Finding("Docker", f"{version}, hands out NVIDIA GPUs ({how})")
    return Finding("Docker", f"{version}, without NVIDIA GPUs", "note", TOOLKIT)


def compose() -> Finding:
    """Docker Compose, for the stack."""
    if shutil.which("docker") is None:
        return Finding("Compose", "the docker command is not installed", "note", "Only the compose stack needs it.")
    command = ["docker", "compose", "version", "--short"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("Compose", f"`{' '.join(command)}` fails: {error}", "note", "Only the compose stack needs it.")
    version = tuple(map(int, re.findall(r"\d+", done.stdout)[:3]))
    wanted = ".".join(map(str, MIN_COMPOSE))
    if done.returncode or version < MIN_COMPOSE:
        says = f"{done.stdout.strip()} is older than {wanted}" if version else "the compose plugin is not installed"
        return Finding("Compose", says, "note", f"Install Docker Compose {wanted} or newer for the compose stack.")
    return Finding("Compose", done.stdout.strip())


def prefect() -> Finding:
    """The Prefect server that ``PREFECT_API_URL`` names."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding("Prefect", f"embedded, in {pippa_home() / 'prefect'}")
    try:
        return Finding("Prefect", f"{url} has the version {require_server(url)}")
    except PippaError as error:
        return problem("Prefect", error)


def ports(environ: dict[str, str]) -> Finding:
    """The ports of the compose stack: free, or taken (by the stack itself, it may be)."""
    taken = []
    for name, usual in _PORTS.items():
        text = environ.get(name) or str(usual)
        if not text.isdecimal() or not 0 < int(text) < 65536:
            return Finding("ports", f"{name} is {text!r}", "problem", "A port is a number from 1 to 65535.")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", int(text))) == 0:
                taken.append(f"{text} ({name})")
    if not taken:
        return Finding("ports", "free for the compose stack")
    return Finding("ports", f"in use: {', '.join(taken)}; by the compose stack, or set another port for it", "note")
