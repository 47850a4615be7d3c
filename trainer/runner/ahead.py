"""Commands of ``trainer`` that are started before it is known what they are to do.

Importing torch takes seconds, and whoever will want an engine has to wait for other things meanwhile. So the process is
there already, has imported what it needs, and waits for its order: arguments and environment, on a socket in place of
its stdin. One that nobody orders anything of ends with whoever started it.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import IO

AHEAD = "--ahead"
"""The only argument of a command that is to wait for an order."""

_MOST_DESCRIPTORS = 8
_TO_END_SECONDS = 1.0
_READ_LATE = ("PIPPA_", "PREFECT_", "WANDB_")
"""Variables that nothing reads while it is imported, but for ``PIPPA_HOME``: numba is told then where its cache is."""


class Ahead:
    """A process started with ``command --ahead``, in a session of its own; a context manager."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        stderr: int | IO[bytes] | None = subprocess.PIPE,
    ) -> None:
        """Raises ``OSError`` when it can't be started."""
        self._command = list(command)
        self._given = False
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*command, AHEAD],
                    env=dict(environ),
                    stdin=theirs.fileno(),
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            except OSError:
                self._socket.close()
                raise

    def give(
        self,
        command: list[str],
        environ: Mapping[str, str],
        keep_fds: Sequence[int] = (),
        stderr: int | None = None,
    ) -> subprocess.Popen[bytes] | None:
        """Let it carry out ``command`` in ``environ``; it is the caller's from then on.

        It holds copies of ``keep_fds`` to its end, as a child does of ``pass_fds``; ``stderr`` replaces its own. None,
        and nothing done, where it can't: it was given something already, has died, or is another command.
        """
        ours, arguments = command[: len(self._command)], command[len(self._command) :]
        if self._given or ours != self._command or self._process.poll() is not None:
            return None
        order = {"arguments": arguments, "environ": dict(environ), "stderr": stderr is not None}
        descriptors = [*([] if stderr is None else [stderr]), *keep_fds]
        try:
            # Descriptors travel with a byte of their own: the rest may need more than one packet.
            socket.send_fds(self._socket, [b"\n"], descriptors)
            self._socket.sendall(json.dumps(order).encode())
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:  # it died a moment ago
            return None
        self._given = True
        self._socket.close()
        return self._process

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, unless it was given something to do."""
        if self._given:
            return
        self._socket.close()
        try:
            # One that has begun another ahead ends that first; but imports are not worth waiting for.
            self._process.wait(_TO_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def order(
    load: str = "",
    anew: Sequence[str] = (),
    prepare: Callable[[MutableMapping[str, str]], None] = lambda _: None,
) -> list[str]:
    """The arguments that this process, started with ``--ahead``, is given; its environment is the order's afterwards.

    Meanwhile the module ``load`` is imported, in an environment that ``prepare`` has changed. Where the order's, also
    prepared, differs in what a library may have read then, such as the GPUs, Python is started anew in this process's
    place, with ``anew`` and the arguments. Ends the process when there will be no order.
    """
    prepare(os.environ)
    before = dict(os.environ)  # importing adds to it
    if load:
        importlib.import_module(load)
    with socket.socket(fileno=os.dup(0)) as orders:
        first, descriptors, _, _ = socket.recv_fds(orders, 1, _MOST_DESCRIPTORS)
        if not first:
            raise SystemExit(0)
        given = json.loads(b"".join(iter(lambda: orders.recv(1 << 16), b"")))
    with open(os.devnull) as nothing:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nothing.fileno(), 0)
    if given["stderr"]:
        os.dup2(descriptors[0], 2)
        os.close(descriptors.pop(0))
    arguments, environ = given["arguments"], given["environ"]
    prepare(environ)
    if load and _read_early(environ) != _read_early(before):
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        os.execve(sys.executable, [sys.executable, *anew, *arguments], environ)  # noqa: S606
    for name in before.keys() - environ.keys():
        os.environ.pop(name, None)
    os.environ.update(environ)
    sys.argv[-1:] = arguments  # W&B records it
    return arguments


def _read_early(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name == "PIPPA_HOME" or not name.startswith(_READ_LATE)}
