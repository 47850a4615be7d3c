"""Which of several machines this one is, and where they meet, as torchrun, SkyPilot and Kubernetes tell their jobs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.errors import PippaError, UsageError

PORT = 29400
"""Where the machines meet on node 0, unless ``PET_MASTER_PORT`` says otherwise: torchrun's own default."""

_RANKS = ("PET_NODE_RANK", "SKYPILOT_NODE_RANK", "JOB_COMPLETION_INDEX")
_COUNTS = ("PET_NNODES", "SKYPILOT_NUM_NODES")
_HELP = (
    "Each machine runs the same command, with PET_NODE_RANK (0, 1 …) and PET_MASTER_ADDR, the address of node 0, in "
    "its environment; SkyPilot and Kubernetes set them. docs/deploy.md."
)


@dataclass(frozen=True)
class Node:
    """One of the machines that train together."""

    rank: int = 0
    """Node 0 keeps the run: it alone uploads, reports and evaluates."""
    count: int = 1
    host: str = ""
    """Address of node 0."""
    port: int = PORT


def this_node(num_nodes: int, environ: Mapping[str, str] = os.environ) -> Node:
    """Which of ``num_nodes`` this machine is.

    Its number is ``PET_NODE_RANK`` (what torchrun reads its ``--node-rank`` from; the Kubeflow Trainer sets it),
    SkyPilot's ``SKYPILOT_NODE_RANK``, or the index of a Kubernetes job. Node 0 is at ``PET_MASTER_ADDR``, or the first
    of ``SKYPILOT_NODE_IPS``. Raises ``UsageError`` for what is missing or contradicts ``--num-nodes``.
    """
    if num_nodes == 1:
        return Node()
    for name in _COUNTS:
        if (reported := environ.get(name, "")).isdecimal() and int(reported) != num_nodes:
            raise UsageError(f"--num-nodes {num_nodes}, but {name} is {reported}.", f"Use --num-nodes {reported}.")
    rank_from = next((name for name in _RANKS if environ.get(name)), None)
    if rank_from is None:
        raise UsageError(f"--num-nodes {num_nodes}, and nothing says which of them this machine is.", _HELP)
    rank = environ[rank_from]
    if not rank.isdecimal() or int(rank) >= num_nodes:
        raise UsageError(f"{rank_from} is {rank!r}, and --num-nodes {num_nodes}.", "Nodes are numbered from 0.")
    host = environ.get("PET_MASTER_ADDR") or next(iter(environ.get("SKYPILOT_NODE_IPS", "").split()), "")
    if not host:
        raise UsageError(f"--num-nodes {num_nodes}, and nothing says where node 0 is.", _HELP)
    port = environ.get("PET_MASTER_PORT") or str(PORT)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"PET_MASTER_PORT is {port!r}, not a port.", "Set it to one on every node, such as 29400.")
    return Node(int(rank), num_nodes, host, int(port))


def why_not(node: Node, error: PippaError) -> dict[str, str]:
    """What the other nodes hear where ``node`` can't train along: of a wrong command its words, and all else as its."""
    if isinstance(error, UsageError):
        return {"problem": error.message}
    where = f"Node {node.rank} ({socket.gethostname()})"
    return {"failure": f"{where} can't train along, exit code {error.exit_code}: {error.message}"}
