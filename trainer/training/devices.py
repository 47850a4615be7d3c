"""Which GPUs a training uses, and how several are used: one process each, through torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import MutableMapping, Sequence

from trainer.errors import UsageError

_UNDER_TORCHRUN = "LOCAL_RANK"


def choose_devices(num_gpus: int, environ: MutableMapping[str, str] = os.environ) -> None:
    """Make exactly ``num_gpus`` GPUs visible, the first of those the user allowed; call before torch touches CUDA.

    More would make transformers wrap the model in ``DataParallel``. Upstream always takes GPU 0, whatever
    ``CUDA_VISIBLE_DEVICES`` says (issue #302). Without a GPU nothing is changed: one process trains on the CPU.
    """
    if _UNDER_TORCHRUN in environ:
        return
    allowed = environ.get("CUDA_VISIBLE_DEVICES")
    devices = [device for device in allowed.split(",") if device] if allowed is not None else None
    if devices is None:
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in range(num_gpus))
    else:
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[:num_gpus])


def check_device_count(num_gpus: int, available: int) -> None:
    """Raise ``UsageError`` when more GPUs are asked for than there are (a machine without any counts as one)."""
    if num_gpus > max(available, 1):
        raise UsageError(
            f"--num-gpus {num_gpus}, but this machine offers {available}.",
            f"Use --num-gpus {max(available, 1)}, and raise --gradient-accumulation-steps to keep the global batch.",
        )


def needs_torchrun(num_gpus: int, environ: MutableMapping[str, str] = os.environ) -> bool:
    """Whether this process has to start one process per GPU instead of training itself."""
    return num_gpus > 1 and _UNDER_TORCHRUN not in environ


def run_under_torchrun(num_gpus: int, argv: Sequence[str]) -> int:
    """Train with ``num_gpus`` processes and the same arguments; returns the exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_gpus}"]
    return subprocess.call([*command, "-m", "trainer.finetune", *argv])
