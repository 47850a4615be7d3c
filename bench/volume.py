"""Memory and speed of push and pull against size: ``uv run python -m bench.volume --minio PROGRAM``.

Few large files of several sizes, then many small ones, through a MinIO server. Each push and each pull is a separate
process, so that its peak memory is its own. The content repeats itself except for 4 KiB of every MiB; with MinIO's
compression and ``--work`` on a file system that compresses (btrfs), 20 GiB fit on a small disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.store import minio
from bench.table import report, table
from trainer.store import snapshots
from trainer.store.stores import open_store

LARGE_FILES = 4
SMALL_BYTES = 2048
_PER_FOLDER = 1000


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, nargs="*", default=[1, 5, 20])
    parser.add_argument("--files", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--minio", type=Path, default=shutil.which("minio"), help="program of a MinIO server")
    parser.add_argument("--work", type=Path, help="folder on the disk to use")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--child", nargs=2, metavar=("push|pull", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]))
        return
    if given.minio is None:
        parser.error("There is no minio on PATH: name it by --minio (docker/minio.Dockerfile builds it).")
    os.environ |= {
        "MINIO_COMPRESSION_ENABLE": "on",
        "MINIO_COMPRESSION_EXTENSIONS": "",
        "MINIO_COMPRESSION_MIME_TYPES": "",
    }
    with tempfile.TemporaryDirectory(dir=given.work) as folder, minio(given.minio, Path(folder) / "minio") as settings:
        os.environ |= settings.to_environ()
        large = [_measured(Path(folder), f"{gib:g} GiB", gib, 0) for gib in given.gib]
        small = [_measured(Path(folder), f"{files:,} files", 0, files) for files in given.files]
    head = ["", "push, s", "push, {0}", "push again, s", "push, peak MiB", "pull, s", "pull, {0}", "pull, peak MiB"]
    report(
        "volume",
        "Push and pull against size, MinIO",
        [
            table([each.format("MiB/s") for each in head], [row for row in large if row]),
            table([each.format("files/s") for each in head], [row for row in small if row]),
            f"{LARGE_FILES} large files, or files of {SMALL_BYTES} bytes; hashing, verification and fsync included. "
            f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, shared with the server. A process that "
            f"has only imported what both use: {_child('nothing', Path()).get('peak', 0):.0f} MiB.",
        ],
        save=given.save,
    )


def _measured(work: Path, name: str, gib: float, files: int) -> list[float | str]:
    """One row: the folder is made, pushed, pushed again, and pulled; all of it is removed."""
    source, out = work / "source", work / "out"
    source.mkdir()
    if files:
        for number in range(files):
            path = source / str(number // _PER_FOLDER) / str(number)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(SMALL_BYTES))
        amount: float = files
    else:
        for number in range(LARGE_FILES):
            _sparse(source / str(number), int(gib * (1 << 30)) // LARGE_FILES)
        amount = gib * 1024
    push, again = _child("push", source), _child("push", source)
    shutil.rmtree(source)
    pull = _child("pull", out)
    shutil.rmtree(out)
    for marker in work.glob(".out*"):
        marker.unlink()
    store = open_store()
    for found in list(store.list("")):
        store.delete(found.key)
    row: list[float | str] = [
        name,
        *(push["seconds"], amount / push["seconds"], again["seconds"], max(push["peak"], again["peak"])),
        *(pull["seconds"], amount / pull["seconds"], pull["peak"]),
    ]
    sys.stderr.write(f"{row}\n")
    return row


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, 1 << 20):
            os.pwrite(file.fileno(), os.urandom(4096), offset)


def _child(what: str, folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.volume", "--child", what, str(folder)], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def child(what: str, folder: Path) -> None:
    """Push or pull, and print the seconds and the peak of this process's memory, in MiB."""
    began = time.perf_counter()
    if what == "push":
        snapshots.push(open_store(), folder, "dataset", "bench")
    elif what == "pull":
        store = open_store()
        ref = snapshots.latest(store, "dataset", "bench")
        assert ref is not None
        snapshots.pull(store, ref, folder)
    seconds = time.perf_counter() - began
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    print(json.dumps({"seconds": seconds, "peak": int(peak[1]) / 1024}))


if __name__ == "__main__":
    main()
