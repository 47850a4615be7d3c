"""The Docker launcher on a real daemon, with an image whose trainer only talks."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import docker
import docker.errors
import pytest

from flows.launch.docker import container_handle as container_module
from flows.launch.docker import container_secrets
from flows.launch.docker.container_handle import ContainerHandle
from flows.launch.docker.launcher import DockerLauncher
from flows.launch.follow import Outcome, TrainerLostError, can_heal, failure
from flows.launch.launchers import get_launcher
from tests.flows.launch.conftest import Bench, followed
from tests.support.proxy import Proxy
from tests.support.waiting import PATIENCE, until
from trainer.errors import OutOfMemoryError, PippaError, UsageError
from trainer.events import CheckpointEvent, Event, PhaseEvent, ProgressEvent, WarningEvent

pytestmark = pytest.mark.docker

CHECKPOINT = {"event": "checkpoint", "step": 1, "digest": "0" * 64, "bytes_uploaded": 5, "seconds": 0.1}
SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
ROOT = Path(__file__).parents[4]


def steps(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, ProgressEvent)]


def warnings(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, WarningEvent)]


def when(kind: type[Event], do: Callable[[], object]) -> Callable[[Event], None]:
    """``do`` something at each event of ``kind``."""

    def observe(event: Event) -> None:
        if isinstance(event, kind):
            do()

    return observe


def stop_at(training: ContainerHandle, kind: type[Event] = ProgressEvent) -> Callable[[Event], None]:
    """SIGTERM at an event of ``kind``. Before its first words the first process of a container ignores it."""
    return when(kind, training.terminate)


def followed_while(
    do: Callable[[], object], training: ContainerHandle, seen: list[Event]
) -> tuple[Outcome, list[Event]]:
    """Follow to the end, each event into ``seen``, while ``do`` runs beside it."""
    beside = threading.Thread(target=do, daemon=True)
    beside.start()
    found = followed(training, seen.append)
    beside.join(PATIENCE)
    return found


def test_events_and_words_arrive_and_nothing_is_left(bench: Bench):
    long = "x" * 50_000  # the daemon keeps it in pieces of 16 KiB
    training = bench.start(
        events=[{"event": "phase", "phase": "train", "message": long}, "a library's own print"],
        words=["for people", long, "the end"],
        count=3,
    )
    outcome, events = followed(training)
    assert (outcome.exit_code, outcome.error, outcome.interrupted) == (0, None, False)
    assert failure(outcome, training) is None
    assert isinstance(events[0], PhaseEvent) and events[0].message == long and steps(events) == [1, 2, 3]
    assert training.log == bench.home / "runs" / bench.run_id / "trainer.log"
    assert training.log.read_text().splitlines() == ["for people", long, "the end", "step 1", "step 2", "step 3"]
    assert bench.left() == []


def test_the_container_is_named_labelled_and_set_up(bench: Bench):
    bench.environ |= {"PIPPA_MEMORY_LIMIT": "512m", "PIPPA_SHM_SIZE": "1g", "PIPPA_STOP_GRACE": "77"}
    bench.environ |= {"WANDB_PROJECT": "arms", "NCCL_DEBUG": "INFO", "WANDB_DIR": "/home/somebody"}
    training = bench.start(wait=True)
    found = bench.container()
    attrs = found.attrs
    assert found.name == training.name == f"pippa-{bench.run_id}"
    assert found.labels | {
        "pippa.run-id": bench.run_id,
        "pippa.preset": "smoke",
        "pippa.engine": "native",
        "pippa.role": "training",
        "pippa.flow-run-id": f"flow-of-{bench.run_id}",
    } == dict(found.labels)
    composed = bench.client.containers.list(filters={"label": "com.docker.compose.project=pippa-test"})
    assert found.id not in [each.id for each in composed]
    host = attrs["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 512 << 20 and host["ShmSize"] == 1 << 30
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]}
    # Some daemons may not lift the first one.
    assert limits | {"memlock": (-1, -1)} == {"memlock": (-1, -1), "stack": (67_108_864, 67_108_864)}
    assert not host["Privileged"] and not host["AutoRemove"] and host["RestartPolicy"]["Name"] == "no"
    assert not host["DeviceRequests"] and host["NetworkMode"] == "bridge"
    assert attrs["Config"]["StopTimeout"] == 77
    mounts = {mount["Destination"]: mount["Name"] for mount in attrs["Mounts"]}
    assert sorted(mounts) == ["/run/secrets", "/tmp", "/var/lib/pippa/cache", "/var/lib/pippa/runs"]
    assert host["ReadonlyRootfs"]
    volume = bench.client.volumes.get(mounts["/var/lib/pippa/cache"])
    assert {"com.docker.compose.project", "com.docker.compose.volume"} <= set(volume.attrs["Labels"])
    told = dict(each.split("=", 1) for each in attrs["Config"]["Env"])
    assert told["WANDB_PROJECT"] == "arms" and told["NCCL_DEBUG"] == "INFO" and "WANDB_DIR" not in told
    image = bench.client.images.get(bench.environ["PIPPA_TRAINER_IMAGE"])
    assert told["PIPPA_IMAGE"] == bench.launcher.image("native") == image.id == attrs["Image"]
    training.kill()
    assert bench.left() == []
    for scratch in ("/run/secrets", "/tmp"):
        with pytest.raises(docker.errors.NotFound):
            bench.client.volumes.get(mounts[scratch])


def test_the_trainer_reads_secrets_that_inspect_does_not_show(bench: Bench, tmp_path):
    token = tmp_path / "token"
    token.write_text("the-token-of-the-hub\n")
    bench.environ |= {"WANDB_API_KEY": "the-key-of-wandb", "HF_TOKEN_FILE": str(token)}
    bench.environ |= {"HTTPS_PROXY": "http://user:the-password-of-the-proxy@proxy:1", "NO_PROXY": "store.example"}
    names = ["pippa_s3_access_key", "pippa_s3_secret_key", "wandb_api_key", "hf_token"]
    training = bench.start(show=[f"/run/secrets/{name}" for name in names], count=1, wait=True)
    shown = json.dumps(bench.container().attrs)
    secrets = [
        *("the-access-key-of-the-store", "the-secret-key-of-the-store"),
        *("the-key-of-wandb", "the-token-of-the-hub", "the-password-of-the-proxy"),
    ]
    assert not [secret for secret in secrets if secret in shown]
    told = dict(each.split("=", 1) for each in bench.container().attrs["Config"]["Env"])
    assert told["PIPPA_S3_SECRET_KEY_FILE"] == "/run/secrets/pippa_s3_secret_key"
    assert told["HF_TOKEN_PATH"] == told["HF_TOKEN_FILE"] == "/run/secrets/hf_token" and told["NO_PROXY"]
    modes = bench.container().exec_run(["stat", "-c", "%a %U", "/run/secrets/hf_token"]).output
    assert isinstance(modes, bytes) and modes.decode().split() == ["400", "pippa"]
    _, events = followed(training, stop_at(training))
    read = {event.phase.rpartition("/")[2]: event.message for event in events if isinstance(event, PhaseEvent)}
    assert read == {
        name: hashlib.sha256(secret.encode()).hexdigest() for name, secret in zip(names, secrets[:4], strict=True)
    }


def test_bringing_sources_needs_no_key_of_wandb(bench: Bench):
    bench.environ["WANDB_API_KEY"] = "the-key-of-wandb"
    job = bench.job().model_copy(update={"role": "prepare"})
    assert "WANDB_API_KEY" not in container_secrets.secrets(job, bench.environ)


def test_a_password_in_a_setting_reaches_no_container():
    environ = {"PIPPA_ISAAC_REPOSITORY": "https://me:hunter2@mirror/Isaac"}
    with pytest.raises(UsageError, match="PIPPA_ISAAC_REPOSITORY holds credentials"):
        container_secrets.settings(environ)


def test_private_certificates_lie_where_every_client_looks(bench: Bench, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    bench.environ["PIPPA_CA_BUNDLE"] = str(bundle)
    training = bench.start(show=["/run/secrets/ca.pem"], count=1, wait=True)
    told = dict(each.split("=", 1) for each in bench.container().attrs["Config"]["Env"])
    assert {told[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")} == {
        "/run/secrets/ca.pem"
    }
    _, events = followed(training, stop_at(training))
    assert hashlib.sha256(bundle.read_bytes()).hexdigest() in [e.message for e in events if isinstance(e, PhaseEvent)]
    bundle.write_text("")
    with pytest.raises(UsageError, match="no certificate"):
        bench.start()


def test_a_failure_is_the_trainers_own_words(bench: Bench):
    error = {"event": "error", "code": 5, "message": "what was wrong", "hint": "what to do"}
    training = bench.start(events=[error], exit=5)
    outcome, _ = followed(training)
    found = failure(outcome, training)
    assert type(found) is OutOfMemoryError and (found.message, found.hint) == ("what was wrong", "what to do")
    assert bench.left() == []


def test_a_trainer_that_dies_without_a_word_shows_its_log(bench: Bench):
    training = bench.start(words=["a word for people"], exit=1)
    found = failure(followed(training)[0], training)
    assert found is not None and "a word for people" in found.message and not can_heal(found)


def test_out_of_memory_is_told_from_being_killed(bench: Bench):
    bench.environ["PIPPA_MEMORY_LIMIT"] = "32m"
    training = bench.start(count=1, take=256 << 20)
    outcome, events = followed(training)
    found = failure(outcome, training)
    assert isinstance(found, OutOfMemoryError) and "PIPPA_MEMORY_LIMIT" in found.hint and not can_heal(found)
    assert steps(events) == [1]


def test_a_killed_or_removed_container_is_lost_and_may_heal(bench: Bench):
    training = bench.start(count=1, wait=True)
    outcome, _ = followed(training, when(ProgressEvent, lambda: bench.container().kill()))
    found = failure(outcome, training)
    assert isinstance(found, TrainerLostError) and "SIGKILL" in found.message and can_heal(found)

    training = bench.start(count=1, wait=True)
    outcome, _ = followed(training, when(ProgressEvent, lambda: bench.container().remove(force=True)))
    found = failure(outcome, training)
    assert isinstance(found, TrainerLostError)


def test_one_whose_machine_went_down_is_lost_and_may_heal(bench: Bench):
    training = bench.start(count=1, exit=255)  # as the daemon says of what ran when the machine was switched off
    found = failure(followed(training)[0], training)
    assert isinstance(found, TrainerLostError) and "machine went down" in found.message and can_heal(found)


def test_ctrl_c_lets_the_trainer_save_and_leaves_no_container(bench: Bench):
    training = bench.start(count=1, wait=True, last=[CHECKPOINT])

    interrupt = when(ProgressEvent, lambda: os.kill(os.getpid(), signal.SIGINT))
    outcome, events = followed(training, interrupt)
    assert outcome.interrupted and outcome.exit_code == 143 and isinstance(events[-1], CheckpointEvent)
    assert bench.left() == []


def test_a_trainer_that_does_not_listen_is_killed_after_its_grace_period(bench: Bench):
    class TerminationSignal(BaseException):
        """As Prefect raises it, at any line."""

    def cancelled() -> None:
        raise TerminationSignal

    training = bench.start(count=1, wait=True, deaf=True)
    with pytest.raises(TerminationSignal):
        followed(training, when(ProgressEvent, cancelled), grace=0.3)
    assert training.exit_code == -signal.SIGKILL and bench.left() == []


def test_a_broken_connection_loses_no_event_and_repeats_none(bench: Bench):
    """Cut in the middle, three times, once for longer."""
    forward = Proxy(SOCKET)
    bench.environ["DOCKER_HOST"] = f"tcp://127.0.0.1:{forward.port}"
    # Its words, which the daemon keeps in pieces, and steps come meanwhile; it ends when it is told to.
    training = bench.start(count=200, interval=0.01, words=["x" * 40_000], wait=True)
    seen: list[Event] = []

    def cut() -> None:
        try:
            for step in (40, 80, 120):
                until(lambda step=step: step in steps(seen))
                if step == 120:
                    # On a busy machine all steps come at once, and the follower may still wait after an earlier cut.
                    until(lambda: not warnings(seen) or "is back" in warnings(seen)[-1])
                before = len(warnings(seen))
                forward.cut()
                if step == 120:
                    until(lambda before=before: len(warnings(seen)) > before)
                forward.mend()
            until(lambda: 200 in steps(seen) and "is back" in warnings(seen)[-1])
        finally:
            training.terminate()

    outcome, events = followed_while(cut, training, seen)
    assert outcome.exit_code == 143
    assert steps(events) == list(range(1, 201))
    assert any("does not answer" in message for message in warnings(events)) and "is back" in warnings(events)[-1]
    assert training.log.read_text().splitlines() == ["x" * 40_000, *(f"step {n}" for n in range(1, 201))]
    assert bench.left() == []
    forward.cut()


def test_a_stop_asked_for_while_the_daemon_is_away_is_sent_once_it_is_back(bench: Bench):
    forward = Proxy(SOCKET)
    bench.environ["DOCKER_HOST"] = f"tcp://127.0.0.1:{forward.port}"
    training = bench.start(count=1, wait=True)
    seen: list[Event] = []

    def cut() -> None:
        until(lambda: steps(seen))
        forward.cut()
        try:
            training.terminate()
            until(lambda: warnings(seen))
        finally:
            forward.mend()

    outcome, events = followed_while(cut, training, seen)
    assert outcome.exit_code == 143 and "is back" in warnings(events)[-1]
    assert bench.left() == []
    forward.cut()


def test_an_engine_that_stays_away_is_a_lost_trainer(bench: Bench, monkeypatch):
    forward = Proxy(SOCKET)
    bench.environ["DOCKER_HOST"] = f"tcp://127.0.0.1:{forward.port}"
    training = bench.start(count=1, wait=True)
    with monkeypatch.context() as impatient:
        impatient.setattr(container_module, "DAEMON_PATIENCE_SECONDS", 1.0)
        impatient.setattr(container_module, "KILL_SECONDS", 1.0)
        outcome, _ = followed(training, when(ProgressEvent, forward.cut))
    found = failure(outcome, training)
    assert isinstance(found, TrainerLostError) and "did not come back" in found.message and can_heal(found)
    # The container is still there, and the next attempt follows it.
    del bench.environ["DOCKER_HOST"]
    again = bench.start()
    assert steps(followed(again, stop_at(again))[1]) == [1] and bench.left() == []


def test_a_program_that_is_not_in_the_image_is_an_error_and_leaves_nothing(bench: Bench):
    bench.environ["PIPPA_TRAINER_IMAGE"] = os.environ.get("PYTHON_IMAGE", "python:3.11-slim-bookworm")
    with pytest.raises(PippaError, match=r"trainer.*not found"):
        bench.start()
    assert bench.left() == []


def test_the_launcher_is_called_docker(tmp_path):
    assert isinstance(get_launcher("docker", tmp_path), DockerLauncher)


def test_no_thread_waits_for_a_container_that_is_gone(bench: Bench):
    training = bench.start(wait=True)
    training.kill()
    for thread in (training._event_thread, training._log_thread):
        thread.join(PATIENCE)
        assert not thread.is_alive()
