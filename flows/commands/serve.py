"""``pippa serve``: a checkpoint for robots, in this process's place."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from flows.commands import Add
from trainer import serve
from trainer.masking import without_secrets

_SECRETS = ("PIPPA_S3_ACCESS_KEY", "PIPPA_S3_SECRET_KEY", "HF_TOKEN", serve.TOKEN)


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa serve``."""
    parser = add(
        "serve",
        run,
        description="Serve a checkpoint to the clients of GR00T N1.5, N1.6 and N1.7 over ZMQ, and over HTTP.",
    )
    serve.add_arguments(parser)


def run(arguments: Namespace) -> NoReturn:
    """Become ``trainer serve``, so that a supervisor's signal reaches the server itself."""
    serve.require_fitting(arguments)
    given = [f"--host={arguments.host}", f"--port={arguments.port}", f"--http-port={arguments.http_port}"]
    for flag in ("data_config", "embodiment_tag", "denoising_steps"):
        if (value := getattr(arguments, flag)) is not None:
            given.append(f"--{flag.replace('_', '-')}={value}")
    given += [f"--{flag}" for flag in ("measure", "json") if getattr(arguments, flag)]
    command = [sys.executable, "-m", "trainer.cli", "serve", *given, "--", arguments.checkpoint]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, without_secrets(os.environ, _SECRETS))  # noqa: S606 - no shell
