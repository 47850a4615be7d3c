"""``pippa`` as a person has it in a terminal, with the engine without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.processes import kill_at_once
from tests.support.waiting import until
from trainer.config.run_spec import RUN_ID
from trainer.data.synthetic import make_synthetic
from trainer.store import registry
from trainer.store.folder import FolderStore

SUPPORT = Path(__file__).parent
UNRECORDED = SUPPORT / "unrecorded"
"""First in PYTHONPATH, it keeps a training from telling Prefect."""


class Pippa:
    """``pippa train smoke`` in a separate process."""

    command = (sys.executable, "-m", "flows.cli")

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder, self.environ = folder, environ
        self.output = folder / "output"
        make_synthetic(folder / "data", episodes=1)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [*self.command, *argv],
                cwd=self.folder,
                env=self.environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C goes to the whole group; so does ours.
                start_new_session=True,
            )

    def train(self, *flags: str) -> subprocess.Popen[bytes]:
        sources = ("--dataset-path", "./data", "--base-model-path", "./model")
        return self.start("train", "smoke", *sources, "--max-steps", "60", "--save-steps", "20", *flags)

    def wait_for(self, text: str, process: subprocess.Popen[bytes]) -> None:
        until(lambda: text in self.output.read_text(), self.told, alive=lambda: process.poll() is None)

    def told(self) -> str:
        """What explains a wait in vain: the output, the end of each log, and what each process that is left does."""
        logs = [f"{file}\n{file.read_text(errors='replace')[-2000:]}" for file in self.folder.glob("home/runs/*/*.*")]
        return "\n".join([self.output.read_text(), *logs, *map(_described, self.left())])

    @property
    def run_id(self) -> str:
        return re.findall(RUN_ID.pattern, self.output.read_text())[0]

    def left(self) -> list[psutil.Process]:
        """Processes of this pippa: those that have its home in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PIPPA_HOME") == self.environ["PIPPA_HOME"]:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def _described(process: psutil.Process) -> str:
    """Its command, and of each thread the state, the signals that wait, and where in the kernel it is."""
    lines = []
    with suppress(psutil.Error, OSError):
        lines.append(f"{process.pid} {' '.join(process.cmdline())}")
        for thread in Path(f"/proc/{process.pid}/task").glob("*"):
            status = (thread / "status").read_text()
            known = re.findall(r"^(?:Name|State|SigPnd|ShdPnd):.*", status, re.MULTILINE)
            lines.append(" ".join([*known, (thread / "wchan").read_text()]))
    return "\n".join(lines)


RECORDING = "flows.orchestration.recording"


class BarePippa(Pippa):
    """One whose Prefect and object store are its own."""

    @property
    def home(self) -> Path:
        return Path(self.environ["PIPPA_HOME"])

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.home / "store")

    def has_run(self, made_prefect: Path) -> None:
        """Its Prefect is no new one: making the tables takes most of a short training's time."""
        shutil.copytree(made_prefect, self.home / "prefect", dirs_exist_ok=True)

    def is_not_recorded(self) -> None:
        """Nothing of it comes to Prefect."""
        self.environ["PYTHONPATH"] = os.pathsep.join([str(UNRECORDED), self.environ["PYTHONPATH"]])

    def steps(self, run_id: str) -> list[int]:
        """The registered steps of a run."""
        return sorted(entry.step for entry in registry.list_checkpoints(self.store, run_id))

    def recording(self) -> list[psutil.Process]:
        return [process for process in self.left() if RECORDING in process.cmdline()]

    def query(self, sql: str) -> list[tuple[str, str]]:
        with sqlite3.connect(f"file:{self.home / 'prefect' / 'prefect.db'}?mode=ro", uri=True) as database:
            return database.execute(sql).fetchall()

    def states(self) -> dict[str, str]:
        """The state of every flow run by its name."""
        return {name: state for name, state in self.query("select name, state_type from flow_run")}  # noqa: C416

    def wait_for_pause(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the training stands at step 6."""
        reached = self.folder / "go on.reached"
        until(reached.exists, self.output.read_text, alive=lambda: process.poll() is None)

    def go_on(self) -> None:
        """Let trainings pass step 6."""
        (self.folder / "go on").touch()


@contextmanager
def bare_pippa(folder: Path) -> Generator[BarePippa]:
    """One whose engine pauses at step 6; no process of it is left afterwards."""
    environ = {
        **{name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ},
        "PIPPA_HOME": str(folder / "home"),
        "PYTHONPATH": str(SUPPORT.parents[1]),
        "PIPPA_FINETUNE_COMMAND": f"{sys.executable} {SUPPORT / 'fake_engine.py'}",
        "PIPPA_EVALUATE_COMMAND": f"{sys.executable} {SUPPORT / 'fake_evaluate.py'}",
        "FAKE_ENGINE": json.dumps({"pause_at": 6, "pause_file": str(folder / "go on")}),
        "WANDB_MODE": "offline",
    }
    pippa = BarePippa(folder, environ)
    try:
        yield pippa
    finally:
        kill_at_once(pippa.left())
