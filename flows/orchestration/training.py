"""A training from the preset to its report, wherever it was started: a terminal, a compose service, a worker's flow.

Nothing here knows Prefect. The caller says who gets the events, and who assigns GPUs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from flows.launch import GPU_VARIABLE, LauncherName, machine, page_job, training_job
from flows.launch.follow import can_heal, failure, follow
from flows.launch.launchers import get_launcher
from flows.orchestration.ensure_imported import ensure_imported
from flows.settings import stop_grace
from flows.views.report import Report, build_report, to_markdown
from trainer import importers
from trainer.config.argv import Resolved, require_engine_can, resolve_values
from trainer.config.data_options import DataOptions
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine, RunSpec, SnapshotRef
from trainer.config.settings import pippa_home
from trainer.errors import PippaError, StoreError, UsageError, from_exit_code
from trainer.events import Event, PhaseEvent, ProgressEvent, WarningEvent
from trainer.importers.generations import require_trainable
from trainer.runner import elsewhere
from trainer.runner.placement import placed
from trainer.runner.run_spec_builder import new_spec
from trainer.store import runs
from trainer.store.object_store import ObjectStore

RETRY_SECONDS = (5.0, 20.0, 60.0)
"""The pauses before a training is started again that another attempt may heal."""

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What somebody wants trained; plain JSON throughout, as it is shown in Prefect."""

    preset: str
    overrides: dict[str, Any]
    launcher: LauncherName
    engine: Engine
    run_id: str


Say = Callable[[str], None]
Hold = Callable[[list[str], int, int, Say], AbstractContextManager[list[str]]]
"""``hold(gpus, wanted, share, say)`` holds ``wanted`` of ``gpus``, each shared by at most ``share`` trainings, after
waiting for them if need be, which ``say`` hears; the context gets their ids."""


class Step(Protocol):
    """Runs one part of a training: ``step("dataset", "dataset robot", work)``."""

    def __call__(self, kind: str, title: str, work: Callable[[], T]) -> T:
        """Return what ``work`` returns."""
        ...


def at_once(kind: str, title: str, work: Callable[[], T]) -> T:  # noqa: ARG001
    """A ``Step`` with nothing around it."""
    return work()


@dataclass(frozen=True)
class Trained:
    """How a training ended that did not fail."""

    report: Report
    interrupted: bool
    """Ctrl-C ended it early; it saved."""
    markdown: str
    """The report for Prefect, with pictures."""


@dataclass(frozen=True)
class Training:
    """One training and those around it."""

    store: ObjectStore
    request: Request
    observe: Callable[[Event], None]
    """Hears every event, and must not wait for anything."""
    hold: Hold
    resolved: Resolved | None = None
    """The request, where it was resolved already: a value is validated where it is typed, and not again."""
    step: Step = at_once
    labels: Mapping[str, str] = field(default_factory=dict)
    """For its container, besides the launcher's own."""
    devices: Mapping[str, int] = field(default_factory=dict)
    """Another number of GPUs or nodes for a run that continues (``trainer.runner.placement``)."""
    waits: bool = False
    """Whether a run that another machine trains is waited for (``trainer.runner.elsewhere``)."""
    leave: type[BaseException] | None = None
    """The exception that leaves a container to its raiser (``flows.launch.follow``)."""

    def run(self) -> Trained:
        """Train, and report.

        A run that the object store knows is continued from its last checkpoint, with the spec it was started with.
        Raises the trainer's ``PippaError``, and ``KeyboardInterrupt`` when Ctrl-C ended it without a report: it came
        before there was a trainer, or the store is away.
        """
        request = self.request
        spec = self._known_spec() or self._new_spec()
        share = machine.trainings_per_gpu()
        interrupted = False
        if not self._done_elsewhere(spec):
            with self.hold(machine.gpus(request.launcher), spec.config.num_gpus, share, self._say("wait")) as gpus:
                interrupted = self.step("training", f"training {spec.run_id}", lambda: self._launch(spec, gpus))
        if not interrupted:  # who pressed Ctrl-C does not wait for it; `pippa report` makes it at any time
            self._keep_page(spec)
        try:
            report = build_report(self.store, spec.run_id)
            return Trained(report, interrupted, to_markdown(report) if interrupted else self._illustrated(report))
        except StoreError:
            if not interrupted:
                raise
            raise KeyboardInterrupt from None  # it ended by Ctrl-C, and the store was away before

    def _done_elsewhere(self, spec: RunSpec) -> bool:
        """Wait for the end of the run on another machine, whose worker may have died; whether nothing is left to train.

        No GPU is held meanwhile.
        """
        place = get_launcher(self.request.launcher, pippa_home())
        if not self.waits or place.knows(spec.run_id):
            return False
        step = 0

        def look(state: runs.RunState) -> None:
            nonlocal step
            if state.step != step:
                step = state.step
                self.observe(ProgressEvent(step=step, of=state.of, loss=state.metrics.get("loss")))

        state = elsewhere.waited_for(self.store, spec.run_id, self._say("wait"), look)
        return state is not None and state.status == "done"

    def _keep_page(self, spec: RunSpec) -> None:
        """Draw the run's page, and log it to W&B where the run was."""
        from flows.views.run_page import keep_page

        folder, launcher = pippa_home() / "runs" / spec.run_id, self.request.launcher
        with self._tolerant("The run's page was not made", f"`pippa report {spec.run_id}` tries it again."):
            keep_page(self.store, spec.run_id, folder)
            # The other engines' images have no W&B of ours, and a container's folders are not seen from here.
            if spec.engine == "native" and (launcher == "docker" or (folder / "wandb").is_dir()):
                with self._tolerant("The run's page is not in W&B", f"`pippa report {spec.run_id} --open` shows it."):
                    self._log_page(spec)

    def _log_page(self, spec: RunSpec) -> None:
        self._say("report")("Logging the run's page to W&B.")
        job = get_launcher(self.request.launcher, pippa_home()).start(page_job(spec.run_id), os.environ)
        outcome = follow(job, self.observe, stop_grace(), leave=self.leave)
        if error := failure(outcome, job):
            raise error

    def _illustrated(self, report: Report) -> str:
        """The report with pictures; without them where they can't be drawn."""
        from flows.views.run_markdown import illustrated

        with self._tolerant("The report has no pictures", f"`pippa report {report.run_id}` draws the run's page."):
            return illustrated(self.store, report)
        return to_markdown(report)

    @contextmanager
    def _tolerant(self, what: str, hint: str) -> Generator[None]:
        """What goes wrong with a page is a warning: the training is done and safe."""
        try:
            yield
        except Exception as error:
            detail = error.message if isinstance(error, PippaError) else f"{type(error).__name__}: {error}"
            self.observe(WarningEvent(message=f"{what}: {detail}", hint=hint))

    def _known_spec(self) -> RunSpec | None:
        """The spec of a run that the store knows; the very same request again is the same run, started once more."""
        request = self.request
        if runs.read_file(self.store, request.run_id, "spec.json") is None:
            return None
        known = runs.read_spec(self.store, request.run_id)
        wanted = request.overrides and (self.resolved or resolve_values(request.preset, request.overrides))[1]
        if known.preset != request.preset or (wanted and known.config != wanted):
            raise UsageError(
                f"{request.run_id} exists already, as a run of {known.preset}.",
                f"`pippa runs resume {request.run_id}` continues it as it was; leave the run id out for a new run.",
            )
        known, change = placed(known, dict(self.devices), "pippa runs resume")
        get_launcher(request.launcher, pippa_home()).require(known.config, known.engine)
        if change:
            self._say("prepare")(change)
        return known

    def _new_spec(self) -> RunSpec:
        """A new run with everything it needs in the store."""
        request = self.request
        preset, config, provenance = self.resolved or resolve_values(request.preset, request.overrides)
        require_engine_can(config, request.engine)
        require_trainable(config, self.store)
        place = get_launcher(request.launcher, pippa_home())
        place.require(config, request.engine)
        image = place.image(request.engine, self._say("prepare"))
        self._say("prepare")("Looking for dataset and base model in the store.")
        # The datasets first: a bad one is refused before a base model of gigabytes is fetched.
        datasets = [
            self._ensure("dataset", name, config, options)
            for name, options in zip(config.dataset_path, config.data_options, strict=True)
        ]
        base_model = self._ensure("model", config.base_model_path, config)
        require_trainable(config, self.store)  # now that its config.json is here
        spec = new_spec(
            preset, config, provenance, datasets, base_model, request.engine, run_id=request.run_id, image=image
        )
        runs.write_spec(self.store, spec)
        return spec

    def _ensure(
        self,
        kind: importers.Kind,
        name: str,
        config: FinetuneConfig,
        options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    ) -> SnapshotRef:
        title = {"dataset": "dataset", "model": "base model"}[kind]
        request = self.request
        return self.step(
            title,
            f"{title} {name}",
            lambda: ensure_imported(
                kind,
                name,
                request.launcher,
                request.run_id,
                data_config=config.data_config,
                options=options,
                observe=self.observe,
            ),
        )

    def _launch(self, spec: RunSpec, gpus: list[str]) -> bool:
        """Start the trainer and follow it to its end; returns whether Ctrl-C stopped it.

        Another attempt continues from the last registered checkpoint, since the run id is the same.
        """
        launcher = self.request.launcher
        place = get_launcher(launcher, pippa_home())
        job = training_job(spec.run_id, spec.preset, spec.engine, self.labels, self.devices)
        chosen = {GPU_VARIABLE[launcher]: ",".join(gpus)} if gpus else {}
        pauses = iter(RETRY_SECONDS)
        first: PippaError | None = None
        while True:
            training = place.start(job, {**os.environ, **chosen})
            outcome = follow(training, self.observe, stop_grace(), leave=self.leave)
            error = None if outcome.interrupted else failure(outcome, training)
            if error is None:
                return outcome.interrupted
            pause = next(pauses, None)
            # Several nodes are started again together, by what started them.
            if pause is None or not can_heal(error) or spec.config.num_nodes > 1:
                raise _both(first, error)
            first = first or error
            hint = f"{error.hint} Trying again in {pause:g} s.".strip()
            self.observe(WarningEvent(message=error.message, hint=hint))
            time.sleep(pause)

    def _say(self, phase: str) -> Say:
        return lambda line: self.observe(PhaseEvent(phase=phase, message=line))


def _both(first: PippaError | None, last: PippaError) -> PippaError:
    """The last attempt's error; what the first one names, such as where checkpoints are, must not be lost."""
    if first is None or first.message == last.message:
        return last
    before = f"The first attempt ended with: {first.message} {first.hint}".strip()
    return from_exit_code(last.exit_code, last.message, f"{last.hint}\n{before}".strip())
