"""The start of ``pippa train``: everything that takes long, side by side, and one line that says what is missing.

On a bare machine that is the Prefect server, importing Prefect, and making or pushing dataset and base model, whose
generators are children that also bring torch into the disk cache.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from flows import compose_discovery as compose_stack
from flows import earlier_store
from flows.embedded.prefect import given_api, prefect_api, prefect_service
from flows.launch import LauncherName
from flows.launch.launchers import get_launcher
from flows.launch.process import trainer_ahead
from flows.settings import keep_bytecode, prefect_environment
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.runner.run_spec_builder import prepare_sources
from trainer.store.object_store import ObjectStore
from trainer.store.stores import open_store


class _Part(threading.Thread):
    """One thing that takes long. A daemon, so that Ctrl-C does not wait for it."""

    def __init__(self, title: str, work: Callable[[], object]) -> None:
        super().__init__(name=title, daemon=True)
        self.title = title
        self.error: BaseException | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised again by whoever waits
            self.error = error


@contextmanager
def started(
    home: Path,
    config: FinetuneConfig | None,
    console: Console,
    launcher: LauncherName = "process",
    engine: Engine = "native",
) -> Iterator[ObjectStore]:
    """Object store and Prefect, ready, and named in ``os.environ`` for the flow and its children.

    ``config`` says what to train, None that it is known already. Where the trainer is to run as a process, dataset and
    base model are imported meanwhile, else its image is built or pulled, and the flow does the rest.
    An embedded Prefect server ends with the context, unless another pippa uses it. Raises the first ``PippaError`` of
    any part.
    """
    os.environ.setdefault("PIPPA_HOME", str(home))
    keep_bytecode(home)
    compose_stack.adopt(home)
    earlier_store.note(home)
    os.environ.update(prefect_environment(home))
    store = open_store()
    with ExitStack() as stack:
        prefect = None if os.environ.get("PREFECT_API_URL") else prefect_service(home)
        if prefect:
            prefect.start()
            stack.callback(prefect.stop)
        if launcher == "process":
            stack.enter_context(trainer_ahead())

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

        def bring_prefect() -> None:
            api = prefect_api(prefect.wait_ready()) if prefect else given_api()
            os.environ.update(api.to_environ())

        created = _Part("object store", store.create)
        parts = [
            created,
            _Part("Prefect server", bring_prefect),
            _Part("Prefect client", _import_prefect),
            *([_Part("dataset and base model", bring_sources)] if config and launcher == "process" else []),
            *([_Part("training image", bring_image)] if launcher != "process" else []),
        ]
        _wait(parts, console)

        from prefect.context import refresh_global_settings_context

        # Prefect read the environment when it was imported, before its server had a port.
        refresh_global_settings_context()
        stack.callback(_flush)
        yield store


def _import_prefect() -> None:
    import flows.orchestration.train  # noqa: F401 - imports Prefect


def _flush() -> None:
    """Send what Prefect still holds before its server goes, which it would otherwise complain about at exit."""
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()


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
