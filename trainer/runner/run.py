"""A run on this machine: the light process around an engine, from the snapshots in the store to the checkpoints in it.

Phases: prepare (dataset and base model into the cache), check (dataset against data config), train (the engine, a child
process), upload (what is left), evaluate (open loop, another child). It imports no torch.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

from trainer.config.run_spec import RunSpec
from trainer.config.settings import pippa_home, upload_patience
from trainer.errors import EngineError, ExitCode, PippaError
from trainer.events import DoneEvent, ErrorEvent, EvaluationEvent, Event, PhaseEvent, SavedEvent, WarningEvent
from trainer.forecast import read_sections
from trainer.masking import Masker, without_secrets
from trainer.memory_advice import advice
from trainer.runner import (
    checkpoint_folder,
    checkpoint_uploader,
    engine_datasets,
    forecast_warnings,
    wandb_setup,
    workspace,
)
from trainer.runner.child_process import Interrupted, Signals, run_child
from trainer.runner.crash_diagnosis import explain
from trainer.runner.dataset_check import check_datasets
from trainer.runner.engine_command import data_config_argument, engine_command, engine_environ, own_environ, program
from trainer.runner.hf_log_parser import HfLogParser
from trainer.runner.parent_watch import child_environment
from trainer.runner.run_log import RunLog
from trainer.store import registry, resume_points, runs
from trainer.store.evaluation import FULL_EPISODES, FULL_STEPS
from trainer.store.local_cache import cached
from trainer.store.object_store import ObjectStore


class Run:
    """One run on this machine."""

    def __init__(
        self,
        spec: RunSpec,
        store: ObjectStore,
        signals: Signals,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.spec = spec
        self.store = store
        self.signals = signals
        self.environ = environ
        self.home = pippa_home(environ)
        self.folder = workspace.run_folder(self.home, spec.run_id)
        self.upload_patience = upload_patience(environ)
        # Joining with an absolute path gives that path.
        self.output_dir = self.folder / Path(spec.config.output_dir).expanduser()
        self.reported = 0
        """The step that an earlier attempt had reached, as far as the store heard of it."""
        self.record: RunLog
        self.uploader: checkpoint_uploader.Uploader | None = None

    def run(self) -> int:
        """All phases. Every end is in the events and in the run's state; the exit code tells which."""
        with workspace.locked(self.folder, lambda line: print(line, file=sys.stderr)) as lock:  # noqa: T201
            self._restore_record()
            before = runs.read_state(self.store, self.spec.run_id)
            started = before.started if before and before.started else datetime.now(UTC)
            self.reported = before.step if before else 0
            state = runs.RunState(
                status="preparing",
                of=self.spec.config.max_steps,
                started=started,
                metrics=before.metrics if before else {},
                lock=workspace.lock_address(self.folder),
            )
            self.record = RunLog(self.store, self.spec.run_id, self.folder, state, Masker.of(self.environ))
            try:
                self._phases(lock)
            except Interrupted:
                return self._stopped()
            except BaseException as error:
                known = workspace.as_pippa_error(error, self.folder)
                message, hint = (known.message, known.hint) if known else (f"{type(error).__name__}: {error}", "")
                code = known.exit_code if known else ExitCode.FAILED
                self.record.emit(ErrorEvent(code=code, message=message, hint=hint))
                self._end("failed", code, message)
                if known is None:
                    raise
                return code
            if self.signals.received is not None:
                return self._stopped()
            engine_datasets.remove(self.folder)
            with suppress(PippaError):  # only costs room
                resume_points.forget(self.store, self.spec.run_id)
            self.record.emit(DoneEvent(message=f"{self.spec.run_id} is done."))
            return self._end("done", ExitCode.DONE, "")

    def _phases(self, lock: int) -> None:
        emit, spec = self.record.emit, self.spec
        registered = workspace.registered_steps(self.store, spec.run_id)
        foreign = workspace.claim_output_dir(
            self.output_dir, spec.run_id, resume=spec.config.resume, registered=bool(registered)
        )

        readable, base_model = self._prepare()
        step = workspace.resume_step(self.store, spec, self.output_dir, registered, emit, foreign)
        uploader = self.uploader = checkpoint_uploader.Uploader(
            self.store,
            spec,
            self.output_dir,
            emit,
            atomic=spec.engine == "native",
            foreign=foreign,
            registered=registered,
        )
        uploader.start()
        problem: PippaError | None = None
        if step is None or step < spec.config.max_steps:
            self._say_what_begins(step, base_model)
            self.record.update(status="running", step=step or 0)
            problem = self._train(readable, base_model, lock, uploader, resume=step is not None)
        else:
            self.record.update(step=step)  # an earlier attempt reached the end, and was killed afterwards

        problem = self._finish_uploads(uploader, problem)
        if problem is None and runs.read_file(self.store, spec.run_id, "spec.json") is None:
            runs.write_spec(self.store, spec)  # the bucket was emptied meanwhile; the checkpoints are of no use without
        try:
            if problem is not None:
                raise problem
            if self.signals.received is None and spec.config.evaluate != "none":
                emit(PhaseEvent(phase="evaluate", message="Predicting the demonstrated actions, open loop."))
                self._evaluate(readable[0], foreign)
        finally:
            self._keep_wandb()

    def _prepare(self) -> tuple[list[Path], Path]:
        """The datasets as the engine reads them, checked, and the base model."""
        emit, log, spec = self.record.emit, self.record.log, self.spec
        emit(PhaseEvent(phase="prepare", message="Fetching dataset and base model from the store."))
        datasets = [cached(self.store, ref, self.home, log) for ref in spec.datasets]
        base_model = cached(self.store, spec.base_model, self.home, log)

        named = [(folder, ref.name) for folder, ref in zip(datasets, spec.datasets, strict=True)]
        check_datasets(named, spec.config, emit, base_model)
        readable = engine_datasets.for_engine(spec.engine, named, spec.config.data_config, self.folder, log)
        return readable, base_model

    def _say_what_begins(self, step: int | None, base_model: Path) -> None:
        emit, spec = self.record.emit, self.spec
        for warning in forecast_warnings.before_training(spec, base_model, self.output_dir):
            emit(warning)
        if (again := self.reported - (step or 0)) > 0:
            lost = f"{again} step{'s are' if again > 1 else ' is'} trained again: {self.reported} was reported last."
            emit(PhaseEvent(phase="prepare", message=lost))
        message = f"Continuing from step {step}." if step else f"Starting the engine ({spec.engine})."
        # The native engine says itself when it has loaded and begins to train.
        emit(PhaseEvent(phase="load" if spec.engine == "native" else "train", message=message))

    def _finish_uploads(self, uploader: checkpoint_uploader.Uploader, problem: PippaError | None) -> PippaError | None:
        """Wait for the uploads. Returns ``problem``, or that not every checkpoint, or none, got there."""
        self.record.emit(PhaseEvent(phase="upload", message="Finishing uploads."))
        stopped = (lambda: self.signals.repeated) if problem is None else (lambda: self.signals.received is not None)
        over = problem is None and self.signals.received is None
        if not uploader.finish(self.upload_patience, stopped=stopped, resumable=not over) and problem is None:
            if self.signals.repeated:
                raise Interrupted
            problem = checkpoint_uploader.failure(uploader, self.spec.run_id)
        if (
            problem is None
            and self.signals.received is None
            and not workspace.registered_steps(self.store, self.spec.run_id)
        ):
            problem = EngineError("The engine ended well but left no whole checkpoint.", "Its output is in log.txt.")
        return problem

    def _train(
        self,
        datasets: list[Path],
        base_model: Path,
        lock: int,
        uploader: checkpoint_uploader.Uploader,
        *,
        resume: bool,
    ) -> PippaError | None:
        spec, record = self.spec, self.record
        config = spec.config
        command = engine_command(spec, datasets, base_model, self.folder, self.output_dir, self.environ, resume=resume)
        environ = engine_environ(self.environ)
        if config.report_to == "wandb":
            variables, warning = wandb_setup.wandb_environment(spec, self.folder, self.environ)
            if "WANDB_MODE" not in variables:  # it reports live, and may sign in with more than the key
                environ = engine_environ(self.environ, keep=wandb_setup.SECRETS)
            environ |= variables
            if warning:
                record.emit(warning)
        environ |= own_environ(spec.engine, environ)
        record.log(f"+ {shlex.join(command)}")
        translator = HfLogParser(config.max_steps, config.global_batch) if spec.engine != "native" else None
        try:
            outcome = run_child(
                command,
                environ,
                self.signals,
                emit=lambda event: uploader.saved() if isinstance(event, SavedEvent) else record.emit(event),
                log=record.log,
                translate=translator.feed if translator else None,
                keep_fds=[lock],
            )
        except (FileNotFoundError, PermissionError) as error:
            return EngineError(
                f"The engine can't be started: {error}.", "PIPPA_FINETUNE_COMMAND must name a program of this image."
            )
        if self.signals.received is None:
            return outcome.problem(advice(spec.config, read_sections(base_model)))
        if outcome.error or outcome.returncode not in (0, -SIGTERM, -SIGKILL, 128 + SIGTERM, 128 + SIGINT):
            # It got a stop signal, but stopped for another reason, such as a full disk under its last checkpoint.
            error = explain(outcome.returncode, outcome.tail, outcome.error, oom_kills=outcome.oom_kills)
            record.emit(WarningEvent(message=f"While stopping: {error.message}", hint=error.hint))
        return None

    def _evaluate(self, dataset: Path, foreign: set[int]) -> None:
        """Open-loop evaluation of the run's checkpoints. What goes wrong here is a warning: the training is safe."""
        spec, record = self.spec, self.record
        try:
            newest = checkpoint_folder.newest(self.output_dir, without=foreign)
            report = self.folder / "report"
            report.mkdir(exist_ok=True)
            theirs = program(self.environ, "PIPPA_EVALUATE_COMMAND", "")
            if theirs:
                if newest is None:
                    return
                command = [*theirs, *self._flags_for_one(newest, dataset, report)]
                environ = engine_environ(self.environ)
            else:
                command, environ = self._flags_for_all(report, foreign), self._evaluation_environ()
            found: dict[int, dict[str, float]] = {}

            def emit(event: Event) -> None:
                if isinstance(event, EvaluationEvent):
                    if theirs and newest is not None:
                        event = event.model_copy(update={"step": newest})
                    found[event.step] = event.metrics
                record.emit(event)

            outcome = run_child(command, environ, self.signals, emit=emit, log=record.log)
            if self.signals.received is not None:
                return
            if problem := outcome.problem():
                raise problem
            if found:
                last = max(found)
                record.update(metrics={**record.state.metrics, **found[last]})
                if theirs:  # pippa's own has done it
                    registry.add_metrics(self.store, spec.run_id, last, found[last])  # also moves `<preset>/best`
            runs.upload_folder(self.store, spec.run_id, report, "report")
        except (PippaError, OSError) as error:
            record.emit(_not_evaluated(error.message if isinstance(error, PippaError) else str(error)))

    def _flags_for_all(self, report: Path, foreign: set[int]) -> list[str]:
        """The command that evaluates every checkpoint of the run in one process (``trainer.evaluation.run``)."""
        steps = ["--foreign", *map(str, sorted(foreign))] if foreign else []
        return [
            *(sys.executable, "-m", "trainer.evaluate", "--run", self.spec.run_id),
            *("--output-dir", str(self.output_dir), "--report-dir", str(report)),
            *("--which", self.spec.config.evaluate, *steps),
        ]

    def _flags_for_one(self, step: int, dataset: Path, report: Path) -> list[str]:
        """What any other ``PIPPA_EVALUATE_COMMAND`` gets, such as Isaac-GR00T's: the last checkpoint's folder."""
        flags = {
            "--model-path": self.output_dir / f"checkpoint-{step}",
            "--dataset-path": dataset,
            "--data-config": data_config_argument(self.spec, self.folder),
            "--embodiment-tag": self.spec.config.embodiment_tag,
            "--report-dir": report,
            "--trajs": FULL_EPISODES,
            "--steps": FULL_STEPS,
        }
        if self.spec.config.video_alignment != "timestamp":
            flags["--video-alignment"] = self.spec.config.video_alignment
        return [str(part) for pair in flags.items() for part in pair]

    def _evaluation_environ(self) -> dict[str, str]:
        """Unlike an engine the evaluation reads and writes the store; and it adds its figures to the run's W&B run."""
        variables: dict[str, str] = {}
        keep = ["PIPPA_S3_ACCESS_KEY", "PIPPA_S3_SECRET_KEY"]
        if self.spec.config.report_to == "wandb" and (self.folder / "wandb").is_dir():
            variables, _ = wandb_setup.wandb_environment(self.spec, self.folder, self.environ)
            keep += [] if "WANDB_MODE" in variables else wandb_setup.SECRETS
        return {**without_secrets(self.environ, keep), **child_environment(), **variables, "PYTHONUNBUFFERED": "1"}

    def _keep_wandb(self) -> None:
        """What W&B's server lacks goes into the store with the run."""
        try:
            if wandb_setup.keep_unsent_runs(self.store, self.spec.run_id, self.folder):
                self.record.log(f"W&B does not have all of this run. To upload it: pippa runs sync {self.spec.run_id}")
        except PippaError as error:
            self.record.emit(WarningEvent(message=f"W&B's record of the run is on this disk only: {error.message}"))

    def _restore_record(self) -> None:
        """On another machine than before, the events and the log continue those in the store."""
        for name in ("events.jsonl", "log.txt"):
            file = self.folder / name
            if not file.exists() and self.store.exists(key := f"runs/{self.spec.run_id}/{name}"):
                self.store.get_file(key, file)

    def _stopped(self) -> int:
        """The end by a signal, with a word about what the store did not get before it."""
        if self.uploader is not None and (steps := self.uploader.waiting()):
            where = self.uploader.pending_dir.parent
            self.record.emit(
                WarningEvent(
                    message=f"Not in the store yet: {', '.join(f'{self.spec.run_id}/{step}' for step in steps)}. "
                    f"On this disk: {where}",
                    hint=f"`trainer run --run-id {self.spec.run_id}` or `pippa runs resume {self.spec.run_id}` on this "
                    "machine uploads it.",
                )
            )
        message = f"Stopped by a signal. `trainer run --run-id {self.spec.run_id}` continues it."
        self.record.log(message)
        return self._end("stopped", self.signals.exit_code, message)

    def _end(self, status: str, code: int, message: str) -> int:
        fields = {"status": status, "exit_code": int(code), "message": message, "ended": datetime.now(UTC)}
        self.record.close(patient=not self.signals.repeated, **fields)
        return int(code)


def _not_evaluated(reason: str) -> WarningEvent:
    return WarningEvent(message=f"The evaluation failed: {reason}", hint="The checkpoints are safe.")
