"""Ports of 127.0.0.1 for servers that start later."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

HOST = "127.0.0.1"
_PORTS = range(10_000, 22_000)
"""The kernel gives none of these to a connection or to a server that asks for any port, nor one 10,000 above: only
another server that chose its port here can take one before its own server listens, one chance in thousands."""


def free_ports(count: int, *, partner: int = 0) -> list[int]:
    """``count`` of them, with the ports ``partner`` above them free too."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        with ExitStack() as stack:
            try:
                for each in {port, port + partner}:
                    stack.enter_context(socket.socket()).bind((HOST, each))
            except OSError:
                continue
            found.append(port)
    return found


def free_port() -> int:
    """One."""
    return free_ports(1)[0]
