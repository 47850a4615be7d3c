"""One training per GPU, on a real Prefect server."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Cancelling, Crashed, Running

from flows.orchestration import gpu_leases
from tests.flows.orchestration.conftest import idle
from tests.support.waiting import PATIENCE, until
from trainer.errors import UsageError


@pytest.fixture
def machine() -> str:
    return f"m-{secrets.token_hex(3)}"


@pytest.fixture
def start(client) -> Callable[[], UUID]:
    def start() -> UUID:
        return client.create_flow_run(idle, name=f"run-{secrets.token_hex(3)}", state=Running()).id

    return start


def taken(client: SyncPrefectClient, limit: str) -> int:
    return client.read_global_concurrency_limit_by_name(limit).active_slots


def test_a_training_holds_its_gpus_and_gives_them_back(client, machine, start):
    with gpu_leases.held(start(), machine, ["0", "1", "2"], 2, 1, print) as gpus:
        assert gpus == ["0", "1"]
        assert [taken(client, f"gpu-{gpu}@{machine}") for gpu in "012"] == [1, 1, 0]
        with gpu_leases.held(start(), machine, ["0", "1", "2"], 1, 1, print) as others:
            assert others == ["2"]
    assert [taken(client, f"gpu-{gpu}@{machine}") for gpu in "012"] == [0, 0, 0]


def test_more_gpus_than_there_are(machine, start):
    with (
        pytest.raises(UsageError, match=f"--num-gpus 4, but {machine} has 2"),
        gpu_leases.held(start(), machine, ["0", "1"], 4, 1, print),
    ):
        pass


def test_without_a_gpu_the_machine_is_held_and_may_be_shared(client, machine, start):
    one, other = (gpu_leases.held(start(), machine, [], wanted, 2, print) for wanted in (4, 1))
    with one as first, other as second:
        assert first == second == [] and taken(client, f"cpu@{machine}") == 2


def test_the_next_one_waits_in_sight_and_for_whom(client, machine, start, monkeypatch):
    monkeypatch.setattr(gpu_leases, "ASK_SECONDS", 0.1)
    first, second, third = start(), start(), start()
    said: list[str] = []
    begun: list[UUID] = []

    def wait(flow_run_id: UUID) -> None:
        with gpu_leases.held(flow_run_id, machine, [], 1, 1, said.append):
            begun.append(flow_run_id)

    def state(flow_run_id: UUID) -> tuple[str | None, str]:
        found = client.read_flow_run(flow_run_id)
        assert found.state is not None
        return found.state_name, found.state.message or ""

    with gpu_leases.held(first, machine, [], 1, 1, said.append):
        threads = [threading.Thread(target=wait, args=[second])]
        threads[0].start()
        until(lambda: state(second)[0] == gpu_leases.WAITING)
        assert client.read_flow_run(first).name in state(second)[1]
        threads.append(threading.Thread(target=wait, args=[third]))
        threads[1].start()
        until(lambda: "Before this one in the queue: " + client.read_flow_run(second).name in state(third)[1])
        assert not begun
    for thread in threads:
        thread.join(PATIENCE)
    # The first in line asks more often, so that it has the better chance; the order is not a promise.
    assert set(begun) == {second, third} and state(second)[0] == state(third)[0] == "Running"
    assert said and all(gpu_leases.WAITING in line for line in said)


def test_a_killed_training_that_is_started_again_has_its_gpu_at_once(client, machine, start):
    flow_run_id = start()
    lease = held_and_left(client, flow_run_id, machine, f"gpu-1@{machine}", ["1"])
    with gpu_leases.held(flow_run_id, machine, ["0", "1"], 1, 1, pytest.fail) as gpus:
        # By the same lease: nobody who waits gets it in between.
        assert gpus == ["1"] and client.read_flow_run(flow_run_id).labels[gpu_leases.LEASE] == str(lease)
    assert taken(client, f"gpu-1@{machine}") == 0


def test_one_that_is_started_again_with_other_gpus_leaves_the_old_ones(client, machine, start):
    flow_run_id = start()
    held_and_left(client, flow_run_id, machine, f"gpu-1@{machine}", ["1"])
    with gpu_leases.held(flow_run_id, f"{machine}-2", ["0"], 1, 1, pytest.fail) as gpus:
        assert gpus == ["0"] and taken(client, f"gpu-1@{machine}") == 0


@pytest.mark.parametrize("gpus", [["0", "1"], []], ids=["gpus", "cpu"])
@pytest.mark.parametrize("told", [Running, Crashed], ids=["said to run", "said to have crashed"])
def test_who_continues_a_killed_training_has_its_gpus_at_once(client, machine, gpus, told):
    name = f"run-{secrets.token_hex(3)}"
    killed, again, other = (
        client.create_flow_run(idle, name=each, state=Running()).id for each in (name, name, f"{name}-2")
    )
    limit = f"gpu-1@{machine}" if gpus else f"cpu@{machine}"
    lease = held_and_left(client, killed, machine, limit, gpus[1:])
    client.set_flow_run_state(killed, told(), force=True)
    with gpu_leases.held(again, machine, gpus, 1, 1, pytest.fail) as chosen:
        assert chosen == gpus[1:] and taken(client, limit) == 1
        assert client.read_flow_run(again).labels[gpu_leases.LEASE] == str(lease)
        if gpus:  # another training does not
            with gpu_leases.held(other, machine, gpus, 1, 1, pytest.fail) as others:
                assert others == ["0"]
    assert taken(client, limit) == 0


@pytest.mark.parametrize("told", [Cancelling, Crashed], ids=["cancelled", "crashed under a worker"])
def test_one_that_is_being_stopped_is_waited_for(client, machine, told, monkeypatch):
    monkeypatch.setattr(gpu_leases, "ASK_SECONDS", 0.1)
    name = f"run-{secrets.token_hex(3)}"
    deployment = client.create_deployment(client.create_flow(idle), name)
    first = client.create_flow_run_from_deployment(deployment, name=name).id
    again = client.create_flow_run(idle, name=name, state=Running()).id
    lease = held_and_left(client, first, machine, f"cpu@{machine}", [])
    client.set_flow_run_state(first, told(), force=True)
    said: list[str] = []

    def give_back(line: str) -> None:
        said.append(line)
        client.release_concurrency_slots_with_lease(lease)

    with gpu_leases.held(again, machine, [], 1, 1, give_back):
        assert gpu_leases.WAITING in said[0]


def held_and_left(client: SyncPrefectClient, flow_run_id: UUID, machine: str, limit: str, gpus: list[str]) -> UUID:
    """What a flow run leaves whose process is killed; the lease."""
    client.upsert_global_concurrency_limit_by_name(limit, 1, slot_decay_per_second=0.0)
    lease = gpu_leases._Lease(flow_run_id, [(limit,)])
    assert lease.ask(client) and lease.id
    client.update_flow_run_labels(
        flow_run_id, {gpu_leases.MACHINE: machine, gpu_leases.GPUS: ",".join(gpus), gpu_leases.LEASE: str(lease.id)}
    )
    return lease.id


def test_a_lease_that_the_server_forgot_is_asked_for_again(client, machine, start, monkeypatch):
    monkeypatch.setattr(gpu_leases, "RENEW_SECONDS", 0.1)
    flow_run_id = start()
    with gpu_leases.held(flow_run_id, machine, ["0"], 1, 1, print):
        lease = UUID(str(client.read_flow_run(flow_run_id).labels[gpu_leases.LEASE]))
        client.release_concurrency_slots_with_lease(lease)
        until(lambda: taken(client, f"gpu-0@{machine}") == 1)
    assert taken(client, f"gpu-0@{machine}") == 0


def test_what_nobody_holds_is_found(client, machine, start):
    flow_run_id = start()
    with gpu_leases.held(flow_run_id, machine, ["0"], 1, 1, print):
        assert gpu_leases.leaked(client, machine) == []
        client.set_flow_run_state(flow_run_id, Running(name="Elsewhere"), force=True)
        assert gpu_leases.leaked(client, machine) == [f"gpu-0@{machine}"]
    client.increment_concurrency_slots([f"gpu-0@{machine}"], 1, "concurrency")
    gpu_leases.free(client, f"gpu-0@{machine}")
    assert taken(client, f"gpu-0@{machine}") == 0
