"""``pippa`` as a person has it in a terminal, with the engine without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.waiting import until
from trainer.config.run_spec import RUN_ID
from trainer.data.synthetic import make_synthetic

SUPPORT = Path(__file__).parent


class Pippa:
    """``pippa train smoke`` in a process of its own."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder, self.environ = folder, environ
        self.output = folder / "output"
        make_synthetic(folder / "data", episodes=1)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *argv],
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
        words = self.output.read_text
        until(lambda: text in words(), words, alive=lambda: process.poll() is None)

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
