"""Which GPUs a training uses, and how several are used, of one machine or more: one process each, through torchrun."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path

from trainer.errors import ExitCode, UsageError
from trainer.runner.nodes import Node
from trainer.runner.parent_watch import child_environment

CPU_PROCESSES = "PIPPA_CPU_PROCESSES"
"""Set to 1, ``--num-gpus N`` means N processes on the CPU where there is no GPU: to try a distributed training out."""

_DRIVER = Path("/proc/driver/nvidia")
"""Where the driver tells of its GPUs, in containers too; another path in tests."""

_MEETING_SECONDS = 300
"""How long nodes wait for each other in torchrun; they come at the same time (``Watch.all_ready``)."""
_SECONDS_TO_SAVE = 3600
"""How long a rank may take to finish its step and save after a stop signal, before it is killed."""


def under_torchrun(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that train together."""
    return "LOCAL_RANK" in environ


def choose_devices(num_gpus: int, environ: MutableMapping[str, str] = os.environ) -> None:
    """Make exactly ``num_gpus`` GPUs visible, the first of those the user allowed; call before torch touches CUDA.

    More would make transformers wrap the model in ``DataParallel``. Upstream always takes GPU 0, whatever
    ``CUDA_VISIBLE_DEVICES`` says (issue #302). Without a GPU nothing is changed: one process trains on the CPU.
    """
    if under_torchrun(environ):
        return
    allowed = environ.get("CUDA_VISIBLE_DEVICES")
    devices = [device for device in allowed.split(",") if device] if allowed is not None else None
    if devices is None:
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in range(num_gpus))
    else:
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[:num_gpus])


def check_device_count(num_gpus: int, available: int, environ: Mapping[str, str] = os.environ) -> None:
    """Raise ``UsageError`` when more GPUs are requested than there are (a machine without any counts as one)."""
    if not available and (environ.get(CPU_PROCESSES) == "1" or under_torchrun(environ)):
        return
    if num_gpus > max(available, 1):
        raise UsageError(
            f"--num-gpus {num_gpus}, but this machine offers {available}.",
            f"Use --num-gpus {max(available, 1)}, and raise --gradient-accumulation-steps to keep the global batch.",
        )


def check_gpu_usable(available: bool, built_for: str | None, environ: Mapping[str, str] = os.environ) -> None:
    """Raise ``UsageError`` when this machine has an NVIDIA GPU that torch can't use: 3B parameters would be trained on
    the CPU, silently.

    ``available`` is whether torch finds a GPU, ``built_for`` the version of CUDA it was built for, None for none.
    """
    hidden = environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if available or hidden or not (_DRIVER / "gpus").is_dir():
        return
    on_cpu = "To train on the CPU all the same, set CUDA_VISIBLE_DEVICES to nothing: `CUDA_VISIBLE_DEVICES= pippa …`."
    if built_for is None:
        raise UsageError("This machine has an NVIDIA GPU, but torch was built without CUDA.", f"`uv sync`. {on_cpu}")
    raise UsageError(
        f"This machine has an NVIDIA GPU, but its driver does not run CUDA {built_for}, which torch was built for.",
        f"Install driver {oldest_driver(built_for)} or newer; `nvidia-smi` says which is there. {on_cpu}",
    )


def oldest_driver(cuda: str) -> int:
    """The major version of NVIDIA's first driver that runs programs built for ``cuda``, such as 13.2."""
    return {"11": 450, "12": 525}.get(cuda.partition(".")[0], 580)


def needs_torchrun(processes: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process has to start one process per GPU instead of training itself."""
    return processes > 1 and not under_torchrun(environ)


def cause(codes: Sequence[int]) -> int:
    """The exit code that says why a training ended, of its failed ranks' ``codes``; negative for a signal that killed.

    When one rank fails, the others fail after it with nothing to say, and torchrun ends them by SIGTERM: those that can
    still answer it end as a stopped training does.
    """
    said = [code for code in codes if code not in (-signal.SIGTERM, ExitCode.TERMINATED)]
    reported = [code for code in said if code in set(ExitCode) and code != ExitCode.FAILED]
    killed = [code for code in said if code < 0]
    return [*reported, *killed, *said, *codes][0]


def run_under_torchrun(
    num_gpus: int,
    argv: Sequence[str],
    node: Node = Node(),  # noqa: B008 - frozen
    stopped: Callable[[], object] = lambda: None,
) -> int:
    """Train with ``num_gpus`` processes here, and as many on every other node; returns the exit code, or the negative
    number of the signal that killed a rank.

    This is ``torchrun``, called as a library: the command line would turn every failure into exit code 1, and kill
    ranks that need longer than 30 seconds to save. A signal is passed on to the ranks, which save once;
    ``stopped`` is called when this process got the signal.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Read by the ranks: they stop when this process is gone, and don't fight over the cores (as torchrun sees to).
    os.environ.update(child_environment())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SECONDS_TO_SAVE))
    alone = node.count == 1
    config = LaunchConfig(
        min_nodes=node.count,
        max_nodes=node.count,
        nproc_per_node=num_gpus,
        run_id=f"pippa-{os.getpid()}" if alone else "pippa",
        # Only the static one leaves the order of the nodes to us: rank 0 has to be on the node that keeps the run.
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else f"{node.host}:{node.port}",
        rdzv_configs={} if alone else {"rank": node.rank, "timeout": _MEETING_SECONDS},
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "trainer.finetune", *argv)
    except SignalException as error:
        stopped()
        return 128 + error.sigval
    except ChildFailedError as error:
        return cause([failure.exitcode for _, failure in sorted(error.failures.items())])
    return ExitCode.DONE
