"""What computes on this machine's GPUs: containers, whoever started them.

A lease or a lock says who may compute. A container outlives the process that held it, and goes on computing.
"""

from __future__ import annotations

from contextlib import closing

import docker

from flows.launch.docker.docker_client import UNREACHABLE, connect
from flows.launch.docker.launcher import GPUS, LABEL
from trainer.errors import PippaError


def computing() -> dict[str, list[str]]:
    """The GPUs of each running container that computes, by its run; ``["all"]`` for all of them, none on a processor.

    Empty where no daemon answers.
    """
    try:
        with closing(connect()) as client:
            found = client.containers.list(filters={"label": f"{LABEL}{GPUS}"}, ignore_removed=True)
            return {each.labels.get(f"{LABEL}run-id", ""): _ids(each.labels[f"{LABEL}{GPUS}"]) for each in found}
    except (PippaError, docker.errors.APIError, *UNREACHABLE):
        return {}


def _ids(label: str) -> list[str]:
    return [each for each in label.split(",") if each]
