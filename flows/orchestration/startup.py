"""The start of ``pippa train``: everything that takes long, side by side, and one line that says what is missing.

That is the object store, and making or pushing dataset and base model, whose generators are children that also bring
torch into the disk cache. Prefect starts too, and is waited for only where a team's server assigns the GPUs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from flows import compose_discovery as compose_stack
from flows import earlier_store
from flows.embedded.prefect import given_api
from flows.launch import LauncherName, gpu_locks, process_table
from flows.launch.launchers import get_launcher
from flows.launch.machine import machine_name
from flows.orchestration.recorder import Recorder
from flows.orchestration.training import Hold, Say
from flows.settings import keep_bytecode, prefect_environment
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.disk import private_folder
from trainer.runner.run_spec_builder import prepare_sources
from trainer.store.object_store import ObjectStore
from trainer.store.stores import open_store


class _Part(threading.Thread):
    """One slow part of the start. A daemon, so that Ctrl-C does not wait for it."""

    def __init__(self, title: str, work: Callable[[], object]) -> None:
        super().__init__(name=title, daemon=True)
        self.title = title
        self.error: BaseException | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised again where it is waited for
            self.error = error


@dataclass(frozen=True)
class Started:
    """What a training needs around it."""

    store: ObjectStore
    recorder: Recorder
    hold: Hold


@contextmanager
def started(
    home: Path,
    run_id: str,
    config: FinetuneConfig | None,
    console: Console,
    launcher: LauncherName = "process",
    engine: Engine = "native",
) -> Generator[Started]:
    """The object store, ready, and what records ``run_id`` in Prefect.

    ``config`` says what to train, None that it is known already. Where the trainer is to run as a process, dataset and
    base model are imported meanwhile, else its image is built or pulled, and the training does the rest. Raises the
    first ``PippaError`` of any part.
    """
    os.environ.setdefault("PIPPA_HOME", str(home))
    private_folder(home)
    keep_bytecode(home)
    compose_stack.adopt(home)
    earlier_store.note(home)
    os.environ.update(prefect_environment(home))
    team = bool(os.environ.get("PREFECT_API_URL"))
    store = open_store()

    def warn(line: str) -> None:
        console.print(f"[yellow]![/] {escape(line)}", soft_wrap=True)

    with _no_child_left(), Recorder(home, warn) as recorder:

        def say(line: str) -> None:
            console.print(f"[dim]{escape(line)}[/]", soft_wrap=True)

        def bring_sources() -> None:
            created.join()
            if config is not None and created.error is None:
                prepare_sources(store, config, home, log=say)

        def bring_image() -> None:
            place = get_launcher(launcher, home)
            if config is not None:
                place.require(config, engine)
            place.image(engine, say)

        created = _Part("object store", store.create)
        parts = [
            created,
            *([_Part("Prefect server", _ask_prefect)] if team else []),
            *([_Part("dataset and base model", bring_sources)] if config and launcher == "process" else []),
            *([_Part("training image", bring_image)] if launcher != "process" else []),
        ]
        _wait(parts, console)
        hold = _leases(recorder) if team else partial(gpu_locks.held, home, run_id)
        yield Started(store, recorder, hold)


@contextmanager
def _no_child_left() -> Generator[None]:
    """End what a thread has started in this block that did not get to wait for it: Ctrl-C came, or another failed."""
    before = set(process_table.children())
    try:
        yield
    finally:
        process_table.end(set(process_table.children()) - before)


def _ask_prefect() -> None:
    """See that the team's server is there, and takes our password."""
    os.environ.update(given_api().to_environ())
    from flows.orchestration.prefect_client import prefect_client

    with prefect_client() as client:
        client.api_version()


def _leases(recorder: Recorder) -> Hold:
    """The GPUs as the team's server gives them out, for the flow run that is recorded."""

    def hold(gpus: list[str], wanted: int, share: int, say: Say) -> AbstractContextManager[list[str]]:
        from flows.orchestration import gpu_leases

        return gpu_leases.held(recorder.flow_run_id(), machine_name(), gpus, wanted, share, say)

    return hold


def _wait(parts: list[_Part], console: Console) -> None:
    began = time.monotonic()

    def line() -> str:
        waiting = ", ".join(part.title for part in parts if part.is_alive())
        return f"Starting: {escape(waiting)} [dim]({time.monotonic() - began:.0f} s)[/]"

    if not console.is_terminal:
        console.print(f"Starting: {escape(', '.join(part.title for part in parts))}", soft_wrap=True)
    with console.status(line(), spinner_style="cyan") as status:
        while any(part.is_alive() for part in parts):
            for part in parts:
                if part.error is not None:
                    raise part.error
            time.sleep(0.1)
            status.update(line())
    for part in parts:
        if part.error is not None:
            raise part.error
    console.print(f"[green]✓[/] ready in {time.monotonic() - began:.0f} s")
