"""The worker of this machine: what it does when it starts, every minute, and when it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from prefect.workers.process import ProcessWorker
from rich.console import Console
from rich.markup import escape

from flows.launch import LauncherName, process_table
from flows.launch.machine import machine_name
from flows.orchestration.deployments import POOL, SCHEDULES, deployments, names
from flows.orchestration.idle import Idle, trains_here
from flows.orchestration.prefect_client import prefect_client
from flows.orchestration.reconciler import Reconciler, recover
from flows.orchestration.register_deployments import code_version, register
from trainer.config.run_spec import Engine
from trainer.config.settings import pippa_home
from trainer.errors import ExitCode


def work(
    screen: Console,
    *,
    name: str | None,
    launcher: LauncherName,
    engine: Engine,
    idle: tuple[float, str] | None = None,
) -> int:
    """Register the deployments, then run what the server has for this machine until SIGTERM or Ctrl-C.

    ``idle`` is a command to run when there was nothing to do for so many seconds.
    """
    name = name or machine_name()
    table = deployments(launcher, engine)
    with prefect_client() as client:
        removed = register(client, table, SCHEDULES, POOL)
        recovered = recover(client, name)
    screen.print(f"pippa {code_version()}: {escape(', '.join(names(table)))}", soft_wrap=True)
    for gone in removed:
        screen.print(f"Removed {escape(gone)}, which pippa has no more.")
    for line in recovered:
        screen.print(escape(line), soft_wrap=True)
    watching: AbstractContextManager[object] = nullcontext()
    if idle:
        seconds, command = idle
        screen.print(f"After {seconds / 60:g} minutes with nothing to do: {escape(command)}", soft_wrap=True)
        home = pippa_home()
        say = partial(screen.print, markup=False, soft_wrap=True)
        watching = Idle(seconds, command, lambda: trains_here(home), say)
    with watching:
        asyncio.run(_run(ProcessWorker(work_pool_name=POOL, name=name), screen))
    return ExitCode.DONE


async def _run(worker: ProcessWorker, screen: Console) -> None:
    def stop() -> None:
        # In one go, and before Prefect can see it: it would take the end of a flow's process for the end of its
        # training. Containers train on, and the next worker of this machine follows them again.
        started = process_table.children()
        for pid in started:
            os.kill(pid, signal.SIGKILL)
        if started:
            screen.print("Stopped. Trainings in containers continue; the next worker here follows them again.")
        else:
            screen.print("Stopped.")
        screen.file.flush()
        os._exit(ExitCode.DONE)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    with Reconciler():
        await worker.start(printer=lambda line: screen.print(escape(str(line)), soft_wrap=True))
