"""Machines that meet, each in a thread here: what they agree on, what they hand over, and how they notice a loss."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.ports import free_port
from tests.trainer.store.conftest import a_spec
from trainer.config.finetune_config import FinetuneConfig
from trainer.errors import EngineError, ExitCode, PippaError, StoreError, UsageError
from trainer.runner.child_process import Signals
from trainer.runner.joining import join_job
from trainer.runner.nodes import Node
from trainer.store import jobs, runs
from trainer.store.folder import FolderStore
from trainer.training import checkpoint_transfer, multi_node, node_watch, rendezvous
from trainer.training.multi_node import train_together
from trainer.training.refusal import told
from trainer.training.rendezvous import Rendezvous, interface, local_address

T = TypeVar("T")


def nodes(count: int = 2) -> list[Node]:
    port = free_port()
    return [Node(rank, count, "127.0.0.1", port) for rank in range(count)]


def on_each(work: Callable[[Node], T], count: int = 2) -> list[T]:
    try:
        with ThreadPoolExecutor(count) as threads:
            return [each.result() for each in [threads.submit(work, node) for node in nodes(count)]]
    finally:
        MET.clear()


MET: list[Rendezvous] = []
"""Node 0's goes with its process, which lives on."""


def met(node: Node) -> Rendezvous:
    MET.append(meeting := Rendezvous(node, {"--batch-size": "2"}, print))
    return meeting


def test_every_node_goes_on_from_the_checkpoint_of_node_0(tmp_path: Path) -> None:
    newest = tmp_path / "0" / "checkpoint-7"
    (newest / "experiment_cfg").mkdir(parents=True)
    (newest / "model.safetensors").write_bytes(b"weights" * 100_000)
    (newest / "experiment_cfg" / "metadata.json").write_text("{}")

    def fetch(node: Node) -> Path | None:
        folder = tmp_path / str(node.rank)
        folder.mkdir(exist_ok=True)
        return met(node).same_checkpoint(newest if node.rank == 0 else None, folder)

    found = on_each(fetch, 3)
    assert found == [newest, tmp_path / "1" / "checkpoint-7", tmp_path / "2" / "checkpoint-7"]
    for folder in found:
        assert folder is not None
        files = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        assert files == {Path("model.safetensors"): b"weights" * 100_000, Path("experiment_cfg/metadata.json"): b"{}"}


def test_without_a_checkpoint_every_node_begins(tmp_path: Path) -> None:
    assert on_each(lambda node: met(node).same_checkpoint(None, tmp_path)) == [None, None]


def test_nodes_that_were_told_different_things_do_not_train() -> None:
    def meet(node: Node) -> str:
        with pytest.raises(UsageError) as refused:
            Rendezvous(node, {"--batch-size": str(2 + node.rank), "pippa": "1"}, print)
        return refused.value.message

    (said,) = set(on_each(meet))
    assert said.startswith("--batch-size is 2 on node 0, and 3 on node 1 (")


@pytest.mark.parametrize(
    ("ranks", "count", "said"),
    [
        ((0, 1, 1), 3, "Two machines take themselves for node 1"),
        ((0, 0), 2, "Two machines take themselves for node 0"),
        ((0, 2), 2, "--num-nodes is 2 on node 0, and 3 on node 2"),
    ],
)
def test_nodes_that_were_given_a_wrong_number_do_not_wait_for_each_other(
    ranks: tuple[int, ...], count: int, said: str
) -> None:
    first, *_ = nodes()
    refused: list[UsageError] = []

    def meet(rank: int) -> None:
        with pytest.raises(UsageError) as error:
            MET.append(Rendezvous(Node(rank, max(count, rank + 1), first.host, first.port), {}, print))
        refused.append(error.value)

    with ThreadPoolExecutor(len(ranks)) as threads:
        for each in [threads.submit(meet, rank) for rank in ranks]:
            each.result()
    MET.clear()
    assert len(refused) == len(ranks) and all(each.message.startswith(said) for each in refused), refused


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (UsageError("--dataset-path is a on node 0, and b on node 1."), UsageError, "--dataset-path is a on node 0"),
        (StoreError("The store is away."), EngineError, "can't train along, exit code 4: The store is away."),
    ],
)
def test_a_node_that_refuses_ends_all_that_wait_for_it(error: PippaError, kind: type[PippaError], said: str) -> None:
    def meet(node: Node) -> None:
        if node.rank == 1:
            with pytest.raises(type(error)), told(node):
                raise error
        else:
            with pytest.raises(kind, match=said):
                met(node)

    on_each(meet, 3)


def test_a_node_with_another_dataset_ends_the_one_that_waits_for_it(tmp_path: Path) -> None:
    """Its light process, which has no torch, knows it before its engine begins."""
    store = FolderStore(tmp_path)
    store.create()
    spec = a_spec()
    spec = spec.model_copy(update={"run_id": jobs.run_of(store, "one", "smoke")})
    runs.write_spec(store, spec)
    other = spec.config.model_copy(update={"dataset_path": ["elsewhere"]})

    def meet(node: Node) -> str:
        with pytest.raises(UsageError) as refused:
            join_job(store, other, "one", node, Signals()) if node.rank else met(node)
        return refused.value.message

    (said,) = set(on_each(meet))
    assert said.startswith("--dataset-path is somewhere on node 0") and "and elsewhere on node 1 (" in said


def test_a_node_that_comes_too_late_takes_no_part() -> None:
    first, second = nodes()
    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(met, node) for node in (first, second)]:
            each.result()
    for late in (first, second):
        with pytest.raises(EngineError, match="has begun already"):
            Rendezvous(late, {}, print)
    MET.clear()


def test_a_node_that_is_started_again_while_others_are_awaited_takes_its_place() -> None:
    first, second, third = nodes(3)
    with ThreadPoolExecutor(4) as threads:
        begun = [threads.submit(met, first)]
        gone = MET[-1:]  # its process was killed: nobody speaks for it
        store = rendezvous.TCPStore(first.host, first.port, is_master=False)
        store.set("here/1", '{"rank": 1, "host": "gone", "terms": {}, "id": "gone"}')
        begun += [threads.submit(met, node) for node in (second, third)]
        assert [each.result().node.rank for each in begun] == [0, 1, 2] and not gone
    MET.clear()


def test_a_node_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "JOIN_SECONDS", 0.5)
    first, second = nodes()
    with pytest.raises(EngineError, match="node 1 of 2 did not come"):
        met(first)
    with pytest.raises(EngineError, match="Node 0 at 127"):
        Rendezvous(Node(1, 2, "127.0.0.1", second.port), {}, print)


def test_a_node_that_falls_silent_is_lost_and_one_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a node says has ten seconds to be heard, also on a busy machine; nobody waits for the silent one after that.
    monkeypatch.setattr(node_watch, "GRACE_SECONDS", 0.0)

    def ends(node: Node) -> Exception | None:
        with met(node).watched() as watch:
            if node.rank == 2:  # its machine is switched off
                watch.over.set()
            return watch.ended({0: 1, 1: 5, 2: 1}[node.rank]) if node.rank < 2 else None

    first, second, _ = on_each(ends, 3)
    assert isinstance(first, EngineError) and "Node 1 (" in first.message and "exit code 5" in first.message
    assert second is None  # its own error says it
    monkeypatch.setattr(node_watch, "BEAT_SECONDS", 0.2)

    def silent(node: Node) -> Exception | None:
        with met(node).watched() as watch:
            if node.rank:
                watch.over.set()
                return None
            return watch.ended(1)

    lost, _ = on_each(silent)
    assert isinstance(lost, EngineError) and "Node 1 (" in lost.message and "was lost" in lost.message


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT_SECONDS": 0.2, "SILENT_SECONDS": 5.0, "GRACE_SECONDS": 0.0}.items():
        monkeypatch.setattr(node_watch, name, seconds)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_watch")
def test_a_node_that_is_not_ready_for_long_is_awaited_as_long_as_it_lives() -> None:
    """Its checkpoint is still on the way."""

    def begins(node: Node) -> bool:
        with met(node).watched() as watch:
            if node.rank:
                time.sleep(1.5 * node_watch.SILENT_SECONDS)
            return watch.all_ready()

    assert on_each(begins) == [True, True]


@pytest.mark.usefixtures("quick_watch")
@pytest.mark.parametrize(("fails", "said"), [(True, "failed, with exit code 6"), (False, "was lost")])
def test_a_node_that_ends_before_the_training_begins_ends_the_others(fails: bool, said: str) -> None:
    def begins(node: Node) -> str:
        with met(node).watched() as watch:
            if node.rank == 1:
                watch.ended(ExitCode.DISK_FULL) if fails else watch.over.set()
                return ""
            assert not watch.all_ready()
            cause = watch.ended(ExitCode.FAILED)
            assert isinstance(cause, EngineError)
            return cause.message

    first, _, third = on_each(begins, 3)
    assert first == third and "Node 1 (" in first and said in first


def test_a_checkpoint_that_stalls_is_not_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Node 0 is switched off in the middle of it: nothing closes the connection."""
    monkeypatch.setattr(rendezvous, "STALLED_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address, port = silent.getsockname()
        offer = {"address": address, "port": port, "word": "a word"}
        monkeypatch.setattr(checkpoint_transfer, "serve", lambda *_: offer)

        def fetch(node: Node) -> str:
            meeting = met(node)
            if node.rank == 0:
                meeting.same_checkpoint(tmp_path / "checkpoint-7", tmp_path)
                return ""
            with pytest.raises(EngineError) as failed:
                meeting.same_checkpoint(None, tmp_path / "1")
            return failed.value.message

        assert on_each(fetch)[1] == "Node 0's checkpoint-7 did not get here: timed out."


@pytest.mark.usefixtures("quick_watch")
def test_a_node_that_has_no_room_for_the_checkpoint_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_ranks(*_: object) -> int:
        pytest.fail("Its ranks would wait for those of the other node.")

    monkeypatch.setattr(checkpoint_transfer, "fetch", full)
    monkeypatch.setattr(multi_node, "run_under_torchrun", no_ranks)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    (newest := tmp_path / "checkpoint-7").mkdir()

    def train(node: Node) -> str:
        config = FinetuneConfig(dataset_path=["data"], output_dir=str(tmp_path / str(node.rank)), num_nodes=2)
        with pytest.raises(EngineError) as failed:
            train_together(config, [], node, None if node.rank else newest, lambda _: None)
        return failed.value.message

    first, second = on_each(train)
    assert "Node 1 (" in first and "failed, with exit code 7" in first
    assert "checkpoint-7 did not get here" in second and "No space left" in second


def test_the_way_to_node_0_is_the_one_gloo_takes() -> None:
    node = Node(1, 2, "127.0.0.1", 29400)
    assert local_address(node) == "127.0.0.1"
    assert interface(node) in ("lo", "lo0")
