"""What pippa makes itself: the synthetic dataset and the tiny base models."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from trainer.config.run_spec import SnapshotRef
from trainer.disk import disk_full, says_full
from trainer.errors import PippaError
from trainer.generation import GENERATIONS
from trainer.importers.downloads import Log
from trainer.importers.names import SYNTHETIC, Kind
from trainer.masking import without_secrets
from trainer.store import snapshots
from trainer.store.manifest import read_manifest
from trainer.store.object_store import ObjectStore

_MAKERS: dict[str, tuple[str, str]] = {
    SYNTHETIC: ("trainer.data.synthetic", "make_synthetic"),
    **{each.tiny: (f"trainer.gr00t.{each.package}.tiny", "make_tiny_base_model") for each in GENERATIONS},
}
"""The module and function that make it."""
_KINDS: dict[Kind, str] = {"dataset": "dataset", "model": "base-model"}
"""As `trainer prepare` calls them."""


def stored(store: ObjectStore, kind: Kind, name: str) -> SnapshotRef | None:
    """What this version of the generator made under ``name``, when the store has it."""
    ref = snapshots.latest(store, kind, name)
    if ref and read_manifest(store, ref).origin.get("generator_sha256") == generator_sha256(name):
        return ref
    return None


@functools.cache
def generator_sha256(name: str) -> str:
    """Hash of the generator's source, with all of pippa's that it imports: another version makes something else."""
    hasher = hashlib.sha256()
    for module, source in sorted(generator_sources(name).items()):
        hasher.update(f"{module} {hashlib.sha256(source).hexdigest()}\n".encode())
    return hasher.hexdigest()


def generator_sources(name: str) -> dict[str, bytes]:
    """The source of each module of pippa that decides what the generator makes, by name. Read, not imported."""
    found: dict[str, bytes] = {}
    waiting = [_MAKERS[name][0]]
    while waiting:
        module = waiting.pop()
        if module not in found and (source := _source(module)) is not None:
            found[module] = source
            waiting += _imports(source)
    return found


def _source(module: str) -> bytes | None:
    """None for what is no module: the last word of ``from package import name`` may be anything."""
    package, _, name = module.rpartition(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (file := Path(folder) / f"{name}.py").is_file():
            return file.read_bytes()
    return None


def _parsed(source: bytes) -> ast.Module:
    for _ in range(5):
        # CPython 3.11 counts the depth of all threads together: a thread that parses while the garbage collector
        # interrupts this one makes it say "recursion depth mismatch" of a good file.
        with contextlib.suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


def _imports(source: bytes) -> list[str]:
    """What ``source`` imports of pippa's own, at the top and inside functions."""
    names: list[str] = []
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith("trainer.")]


@contextmanager
def made(kind: Kind, name: str, work: Path, log: Log) -> Generator[tuple[Path, dict[str, str]]]:
    """A temporary folder with it, and its origin."""
    module, function = _MAKERS[name]
    log(f"Making {name}.")
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="make-") as temporary:
        folder = Path(temporary) / name
        # In a child: the generator may import torch, and this process stays light.
        code = f"import sys, pathlib; from {module} import {function}; {function}(pathlib.Path(sys.argv[1]))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env=without_secrets(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        missing = re.search(r"No module named '(\w+)", done.stderr)
        if done.returncode and missing:
            raise PippaError(
                f"{name} is not in the store, and making it takes {missing[1]}, which is not installed here.",
                f"Make it once with the trainer image: `trainer prepare {_KINDS[kind]} {name}`.",
            )
        if done.returncode and says_full(done.stderr):
            raise disk_full(work)
        if done.returncode:
            why = done.stderr.strip()[-2000:]
            if done.returncode < 0:
                why = f"signal {-done.returncode} ended it ({signal.strsignal(-done.returncode)}).\n{why}".rstrip()
            raise PippaError(f"{name} could not be made: {why}")
        yield folder, {"generator": module, "generator_sha256": generator_sha256(name)}
