"""One training on two machines, with torchrun's own rendezvous and gloo: as one process with the summed batch."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from tests.support.machines import Machine, two_machines
from tests.support.ports import free_port
from tests.support.training import Training
from tests.support.waiting import PATIENCE, until
from tests.trainer.training.test_distributed import TWO, assert_close
from trainer.config.settings import S3Settings
from trainer.events import ErrorEvent, PhaseEvent, WarningEvent, parse_event
from trainer.gr00t.n15.tiny import make_tiny_base_model
from trainer.store import jobs, registry, resume_points, runs, snapshots
from trainer.store.s3 import S3Store

MakeTraining = Callable[..., Training]
FLAGS = ("--batch-size", "2", "--num-nodes", "2", "--save-steps", "25", "--dataloader-num-workers", "0")
FLAGS += ("--report-to", "tensorboard", "--evaluate", "none", "--max-steps", "100")
FLAGS += ("--learning-rate", "1e-4", "--weight-decay", "1e-5", "--warmup-ratio", "0.05")


@pytest.fixture(scope="module")
def no_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base_model(tmp_path_factory.mktemp("models") / "tiny")


def start_both(training: MakeTraining, name: str, **flags: object) -> list[Training]:
    """Node 0 and node 1 of a training, each with a separate output folder, to their end; node 0 first."""
    nodes = [training(f"{name}-{rank}", num_nodes=2, **flags) for rank in range(2)]
    meeting = {**TWO, "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    started = [node.start({**meeting, "PET_NODE_RANK": str(rank)}) for rank, node in enumerate(nodes)]
    for node, process in zip(nodes, started, strict=True):
        process.join(PATIENCE)
        assert process.exitcode == 0, node.log.read_text()
    return nodes


@pytest.mark.slow
def test_two_nodes_make_one_process_and_one_process_goes_on(
    training: MakeTraining, no_dropout: Path, even_dataset: Path
) -> None:
    flags = {"dataset_path": [even_dataset], "base_model_path": no_dropout, "max_steps": 4, "save_steps": 2}
    whole = training("whole", batch_size=4, **flags)
    assert whole.run() == 0
    first, second = start_both(training, "two", batch_size=2, **flags)
    assert_close(first, whole, 4)
    assert {path.name for path in first.checkpoint(2).glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert not list(second.output_dir.iterdir())  # node 0 keeps everything
    assert any("4 = 2 × 2 nodes samples a step" in str(event) for event in events(first.log))

    # From the same step on, with half the processes and the same global batch: told, and the same but for sums.
    shutil.rmtree(first.checkpoint(4))
    assert first.steps == [2]
    assert first.run(num_nodes=1, gradient_accumulation_steps=2, resume=True) == 0
    (told,) = [event for event in first.events if isinstance(event, WarningEvent) and "processes" in event.message]
    assert "checkpoint-2 was saved by 2 processes, and 1 goes on" in told.message
    assert_close(first, whole, 4)


class Nodes:
    """``trainer run`` on two machines, each with a separate home, and one store."""

    def __init__(self, machines: list[Machine], settings: S3Settings, folder: Path, flags: list[str]) -> None:
        self.machines, self.settings, self.folder, self.flags = machines, settings, folder, flags
        self.attempt = 0

    def start(self) -> list[subprocess.Popen[bytes]]:
        self.attempt += 1
        return [self._start(rank) for rank in range(2)]

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        machine = self.machines[rank]
        environ = {
            **{name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ},
            **self.settings.to_environ(),
            **machine.environ,
            **TWO,
            "HOME": str(self.folder),
            "PIPPA_HOME": str(self.home(rank)),
            "OMP_NUM_THREADS": "1",
        }
        with self.said(rank).open("wb") as log:
            return subprocess.Popen(
                [*machine.prefix, sys.executable, "-m", "trainer.cli", "run", "smoke", "--job", "one", *self.flags],
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def home(self, rank: int) -> Path:
        """Empty at each attempt: the machines are new."""
        return self.folder / f"home-{rank}-{self.attempt}"

    def said(self, rank: int) -> Path:
        return self.folder / f"log-{rank}-{self.attempt}"


def processes(of: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All of a node's."""
    return [*psutil.Process(of.pid).children(recursive=True), psutil.Process(of.pid)]


def send(number: signal.Signals, to: list[psutil.Process]) -> None:
    for process in to:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextlib.contextmanager
def lost(how: str, node: subprocess.Popen[bytes], machine: Machine) -> Generator[int]:
    """``node`` is killed, frozen or cut off meanwhile; yields its exit code."""
    of_node = processes(node)
    if how == "cut off":
        machine.plug("down")
    else:
        send(signal.SIGKILL if how == "killed" else signal.SIGSTOP, of_node)
    try:
        yield -signal.SIGKILL if how == "killed" else 7
    finally:
        if how == "cut off":
            machine.plug("up")
        elif how == "frozen":
            send(signal.SIGCONT, of_node)


def start_training(nodes: Nodes) -> list[subprocess.Popen[bytes]]:
    """Both nodes, once they train."""
    first, second = nodes.start()
    until(
        lambda: '"event":"progress"' in nodes.said(0).read_text(),
        nodes.said(0).read_text,
        alive=lambda: first.poll() is None,
    )
    return [first, second]


def stop(nodes: Nodes, store: S3Store) -> None:
    """Leave a state in the store to continue from, early: while a run trains, its state goes up seldom."""
    for node in (started := start_training(nodes)):
        node.terminate()
    assert [node.wait(PATIENCE) for node in started] == [143, 143], nodes.said(0).read_text()
    assert resume_points.read(store, jobs.find(store, "one") or "") is not None, nodes.said(0).read_text()


def lose(how: str, nodes: Nodes, store: S3Store) -> None:
    """Node 1 is lost while both train."""
    first, second = start_training(nodes)
    run_id = jobs.find(store, "one") or ""
    with lost(how, second, nodes.machines[1]) as code:
        assert first.wait(PATIENCE) == 7, nodes.said(0).read_text()
    assert second.wait(PATIENCE) == code, nodes.said(1).read_text()
    (error,) = [event for event in events(nodes.said(0)) if isinstance(event, ErrorEvent)]
    assert error.code == 7 and "Node 1" in error.message and "was lost" in error.message, how
    state = runs.read_state(store, run_id)
    assert state is not None and state.status == "failed" and "Node 1" in state.message


@pytest.mark.slow
def test_a_lost_node_ends_the_attempt_and_two_empty_machines_go_on(
    s3_settings: S3Settings, tmp_path: Path, no_dropout: Path, even_dataset: Path, training: MakeTraining
) -> None:
    store = S3Store(s3_settings)
    sources = ["--dataset-path", str(even_dataset), "--base-model-path", str(no_dropout)]
    port = int(s3_settings.endpoint.rpartition(":")[2])
    with two_machines(port) as machines:
        nodes = Nodes(machines, s3_settings, tmp_path, [*FLAGS, *sources])
        stop(nodes, store)
        for how in ("killed", "frozen", *(["cut off"] if machines[1].prefix else [])):
            lose(how, nodes, store)

        first, second = nodes.start()
        assert first.wait(PATIENCE) == 0, nodes.said(0).read_text()
        assert second.wait(PATIENCE) == 0, nodes.said(1).read_text()
    begun = [event.message for event in events(nodes.said(0)) if isinstance(event, PhaseEvent)]
    assert any(message.startswith("Continuing from step ") for message in begun), begun
    entry = max(registry.list_checkpoints(store, jobs.find(store, "one")), key=lambda each: each.step)
    assert entry.step == 100
    # One process with the summed batch. Over so many steps the order of sums shows: little beside what is learned.
    whole = training(
        "whole", dataset_path=[even_dataset], base_model_path=no_dropout, batch_size=4, max_steps=100, save_steps=100
    )
    assert whole.run() == 0
    pulled = training("pulled")
    start = {name: each for file in no_dropout.glob("*.safetensors") for name, each in load_file(file).items()}
    snapshots.pull(store, entry.snapshot, pulled.checkpoint(100))
    ours, theirs = pulled.weights(100), whole.weights(100)
    assert ours.keys() == theirs.keys()
    learned = sum((theirs[name] - start[name]).abs().sum().item() for name in theirs)
    apart = sum((theirs[name] - ours[name]).abs().sum().item() for name in theirs)
    assert apart < learned / 50, (apart, learned)


def events(log: Path) -> list[object]:
    return [parse_event(line) for line in log.read_text(errors="replace").splitlines()]
