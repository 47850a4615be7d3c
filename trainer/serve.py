"""``trainer serve CHECKPOINT``: the policy server."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import re
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from trainer.command_line import Parser
from trainer.config.settings import secret_from
from trainer.errors import PippaError, UsageError
from trainer.events import Emitter, PhaseEvent
from trainer.heavy_imports import heavy_imports
from trainer.output import stdout_is_log
from trainer.serving.ending import end_by_signals

if TYPE_CHECKING:
    import zmq

    from trainer.gr00t.policy import Policy
    from trainer.serving.service import Service

HOST = "127.0.0.1"
PORT = 5555
HTTP_PORT = 8000
MAX_STEPS = 1000
"""Denoising steps; the models tell 1000 times apart."""
TOKEN = "PIPPA_SERVE_TOKEN"  # noqa: S105 - a variable's name
SHORTEST_TOKEN = 16


def add_arguments(parser: Parser) -> None:
    """The arguments, for ``trainer serve`` and ``pippa serve``."""
    parser.add_argument("checkpoint", metavar="NAME", help="RUN/STEP, RUN (its newest), an alias, or a folder")
    parser.add_argument(
        "--host", default=HOST, help=f"address to listen on [{HOST}]; beyond loopback {TOKEN} is required"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"port for ZMQ clients [{PORT}]; 0 takes a free one")
    parser.add_argument(
        "--http-port", type=int, default=HTTP_PORT, help=f"port for HTTP [{HTTP_PORT}]; 0 takes a free one"
    )
    parser.add_argument("--data-config", help="of a folder that does not know its own, as one of Isaac-GR00T")
    parser.add_argument("--embodiment-tag", help="the same")
    parser.add_argument(
        "--measure", action="store_true", help="say how long a chunk takes, by part, instead of serving"
    )
    parser.add_argument("--json", action="store_true", help="with --measure: print JSON for programs")
    parser.add_argument("--denoising-steps", type=int, help="steps of the sampler; default: the checkpoint's (4)")


def main(argv: Sequence[str]) -> int:
    """Serve until a signal ends it, which is the exit code 128 + its number (``trainer.errors.ExitCode``)."""
    parser = Parser("trainer serve", description="Serve a checkpoint to GR00T's clients, over ZMQ and HTTP.")
    add_arguments(parser)
    given = parser.parse_args(argv)
    require_fitting(given)
    if not given.measure:
        serve(given)
    from trainer.serving.latency import document, measure, summary

    policy = _loaded(given)
    parts = measure(policy)
    sys.stdout.write((json.dumps(document(policy, parts), indent=2) if given.json else summary(parts)) + "\n")
    return 0


def require_fitting(arguments: Namespace) -> None:
    """Raise ``UsageError`` for what can't be served, or not here, before anything is loaded."""
    steps = arguments.denoising_steps
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"--denoising-steps is {steps}.", f"Take 1 to {MAX_STEPS} steps; upstream takes 4.")
    if arguments.measure:
        return
    if arguments.json:
        raise UsageError("--json is for --measure.", "Add --measure, or leave it out.")
    address, _ = required(arguments)
    for flag, port in (("--port", arguments.port), ("--http-port", arguments.http_port)):
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers listen
                probe.bind((address, port))
        except OSError as error:
            raise _taken(flag, address, port, error) from error


def required(arguments: Namespace, environ: Mapping[str, str] = os.environ) -> tuple[str, str | None]:
    """The address to listen on, and the token. Raises ``UsageError``."""
    for flag, port in (("--port", arguments.port), ("--http-port", arguments.http_port)):
        if not 0 <= port <= 65535:
            raise UsageError(f"{flag} is {port}.", "Ports go up to 65535; 0 takes a free one.")
    if arguments.port == arguments.http_port != 0:
        raise UsageError(f"--port and --http-port are both {arguments.port}.", "Give them two ports.")
    try:
        address = str(socket.getaddrinfo(arguments.host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {arguments.host} is no address of this machine.", f"Try --host {HOST}.") from error
    token = secret_from(environ, TOKEN)
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise UsageError(f"{TOKEN} is shorter than {SHORTEST_TOKEN} characters.", "Make one: `openssl rand -hex 16`.")
    if token is not None and not re.fullmatch("[!-~]+", token):
        raise UsageError(f"{TOKEN} has a character that no HTTP header takes.", "Make one: `openssl rand -hex 16`.")
    if token is None and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise UsageError(
            f"--host {arguments.host} listens beyond this machine, and {TOKEN} is not set.",
            f"Set {TOKEN} (`openssl rand -hex 16` makes one) for clients to send as api_token, or leave --host out.",
        )
    return address, token


def serve(arguments: Namespace) -> NoReturn:
    """Pull, verify, load and warm up the checkpoint, then serve it. Raises ``PippaError``, and ``SystemExit``."""
    address, token = required(arguments)
    end_by_signals()
    stdout_is_log()
    policy = _loaded(arguments)
    from trainer.serving.service import Service

    _listen(Service(policy, token), arguments, address, token, policy.checkpoint.registered)


def _loaded(arguments: Namespace) -> Policy:
    from trainer.gr00t.checkpoint import find_checkpoint

    name = arguments.checkpoint
    events = not arguments.measure  # whose answer stdout is
    checkpoint = find_checkpoint(name, arguments.data_config, arguments.embodiment_tag)
    _say(f"Loading {name}.", events=events)
    with heavy_imports():  # 10 seconds and more on a slow disk
        from trainer.gr00t.policy import Policy
        from trainer.serving.service import warm_up

    policy = Policy(checkpoint, denoising_steps=arguments.denoising_steps)
    _say("Warming up.", events=events)
    warm_up(policy)
    return policy


def _listen(
    service: Service, arguments: Namespace, address: str, token: str | None, registered: str | None
) -> NoReturn:
    import zmq

    from trainer.serving.over_http import HttpServer
    from trainer.serving.over_zmq import ZmqServer

    shown = f"[{address}]" if ":" in address else address
    try:
        robots = ZmqServer(service, f"tcp://{shown}:{arguments.port}")
    except zmq.ZMQError as error:
        raise _taken("--port", address, arguments.port, error) from error
    try:
        web = HttpServer(service, address, arguments.http_port)
    except OSError as error:
        raise _taken("--http-port", address, arguments.http_port, error) from error
    threads = [
        threading.Thread(target=run, name=name, daemon=True)
        for name, run in (("model", service.turns.run), ("zmq", robots.run), ("http", web.serve_forever))
    ]
    for thread in threads:
        thread.start()
    name = (
        arguments.checkpoint if registered in (None, arguments.checkpoint) else f"{arguments.checkpoint} ({registered})"
    )
    _say(
        f"Serving {name} at tcp://{shown}:{robots.port} (ZMQ) and http://{shown}:{web.server_port} "
        f"(POST /act), {'with a token' if token else 'without a token'}. Ctrl-C ends it."
    )
    try:
        while all(thread.is_alive() for thread in threads):
            time.sleep(1.0)  # a join that a signal interrupts takes its thread for ended (CPython 3.11)
        raise PippaError("A thread of the server ended.", "Its log says why; start it again.")
    finally:
        service.turns.close()  # waiting clients get an error
        robots.close()
        for thread in threads[:2]:
            thread.join(2.0)


def _taken(flag: str, address: str, port: int, error: OSError | zmq.ZMQError) -> UsageError:
    cure = f"Give another port with {flag}."
    if error.errno == errno.EADDRNOTAVAIL:
        cure = "Give an address of this machine with --host; 0.0.0.0 is all of them."
    elif error.errno == errno.EACCES:
        cure = f"Ports below 1024 are for root; give another one with {flag}."
    return UsageError(f"Can't listen on {address}, port {port}: {error.strerror or error}.", cure)


def _say(message: str, *, events: bool = True) -> None:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    if events and not sys.stdout.isatty():
        Emitter()(PhaseEvent(phase="serve", message=message))
