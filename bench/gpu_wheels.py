"""``uv run python -m bench.gpu_wheels``: what ``bench.gpu_drill`` needs beside the tree, into an ignored folder.

Packages that the GPU machine lacks, in the locked versions, unpacked for its Python so that nothing is installed there;
and the golden tensors of ``tests/gpu``. PyAV is left out (36 MB): the drill decodes no video.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from bench.drill.carried import CARRIED, GOLDEN, GOLDEN_N17, PACKAGES, REPOSITORY

PYTHON, PLATFORM = "3.12", "x86_64-manylinux_2_28"
WANTED = (
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("tensorboardx", "protobuf"),
)
"""What ``trainer run`` and TensorBoard's writer import beside torch and transformers. The store is a folder, so that no
client of S3 is among them."""
TENSORS = (
    *("tiny_model_config.json", "tiny_state_dict.safetensors", "results.json"),
    *("batch_A.safetensors", "batch_B.safetensors"),
    *("forward_A_sdpa.safetensors", "forward_B_sdpa.safetensors", "forward_B_fa2ref.safetensors"),
)
TENSORS_N17 = (
    *("tiny_model_config.json", "tiny_state_dict.safetensors", "results.json"),
    *("batch_A.safetensors", "batch_B.safetensors", "forward_A.safetensors", "forward_B.safetensors"),
)
MAX_MB = 40
"""Of packages; a lent machine is sent 64 MiB in all."""


def main() -> None:
    """Collect, and say how much it is."""
    collect_packages()
    shared = REPOSITORY.parent / "shared"
    collect_golden(shared / "golden", GOLDEN, TENSORS)
    collect_golden(shared / "golden-n17", GOLDEN_N17, TENSORS_N17)
    sizes = {folder.name: megabytes(folder) for folder in (PACKAGES, GOLDEN, GOLDEN_N17) if folder.is_dir()}
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = [REPOSITORY / name for name in tracked.stdout.split("\0") if name]
    sizes["tree"] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    listed = ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items())
    print(
        f"{CARRIED.relative_to(REPOSITORY)} is complete. What travels: {listed}; {sum(sizes.values()):.1f} MB in all."
    )
    if sizes["packages"] > MAX_MB:
        sys.exit(f"The packages take more than {MAX_MB} MB: leave some out of WANTED.")


def collect_packages() -> None:
    """Unpack the wheels of ``WANTED`` into ``PACKAGES``."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    flags = f"--no-deps --only-binary :all: --python-version {PYTHON} --python-platform {PLATFORM} --target".split()
    command = ["uv", "pip", "install", "--quiet", *flags, str(PACKAGES), *locked(WANTED)]
    subprocess.run(command, check=True, cwd=REPOSITORY)


def collect_golden(source: Path, into: Path, names: tuple[str, ...]) -> None:
    """Copy the files ``names``."""
    if not source.is_dir():
        print(f"There are no golden tensors in {source}: the tests that compare with them will be skipped.")
        return
    into.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, into / name)


def locked(names: tuple[str, ...]) -> list[str]:
    """``names`` with the versions of ``uv.lock``."""
    versions = versions_locked()
    return [f"{name}=={versions[name]}" for name in names]


def versions_locked() -> dict[str, str]:
    """Every package's version in ``uv.lock``."""
    lock = tomllib.loads((REPOSITORY / "uv.lock").read_text())
    return {package["name"]: package["version"] for package in lock["package"] if "version" in package}


def megabytes(folder: Path) -> float:
    """Of all files in it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


if __name__ == "__main__":
    main()
