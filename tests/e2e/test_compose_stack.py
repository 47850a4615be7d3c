"""The compose stack as the README uses it, from a fresh clone. The tests build on each other, in this order."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.stack import Stack
from tests.support.isaac.images import build_image
from tests.support.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_up_builds_starts_and_trains(stack: Stack) -> None:
    built = stack.compose("build", "trainer", "credentials", "minio", stage="build the images", timeout=1800)
    assert built.returncode == 0, built.stdout[-5000:]
    subprocess.run(["docker", "rmi", stack.images["flows"]], check=True, capture_output=True)  # `up` builds what lacks
    done = stack.compose("up", "train-smoke", stage="docker compose up train-smoke")
    assert "train-smoke-1 exited with code 0" in done.stdout, done.stdout[-5000:]
    shown = [line for line in done.stdout.splitlines() if "train-smoke-1  | " in line]
    assert any("step 400/400" in line for line in shown), done.stdout[-5000:]
    assert any("pippa runs pull smoke-" in line for line in shown)
    assert any("open-loop MSE" in line for line in shown)


def test_the_command_line_of_the_host_sees_what_the_stack_holds(stack: Stack) -> None:
    listed = stack.pippa("checkpoints", "list")
    assert listed.returncode == 0, listed.stdout
    assert "smoke/latest" in listed.stdout
    names = stack.checkpoints()
    assert len(names) == 4 and all(re.fullmatch(r"smoke-\d{8}-\d{6}-[0-9a-f]{4}/\d00", name) for name in names)
    verified = stack.pippa("checkpoints", "verify", "smoke/latest")
    assert verified.returncode == 0, verified.stdout
    shown = stack.pippa("checkpoints", "show", "smoke/latest")
    assert "sha256:" in shown.stdout  # the image it was trained in


def test_no_training_container_is_left(stack: Stack) -> None:
    assert stack.trainings() == []


def test_another_store_takes_the_place_of_minio(stack: Stack) -> None:
    elsewhere = {"PIPPA_S3_ENDPOINT": "https://s3.example"}
    assert "minio" in stack.compose("config", "--services").stdout.split()
    configured = stack.compose("config", "--services", settings=elsewhere).stdout.split()
    assert "minio" not in configured
    assert "worker" in configured


def test_secrets_are_seen_nowhere(stack: Stack) -> None:
    secrets = [file.read_text() for file in (stack.clone / ".pippa/stack").iterdir()]
    secrets += [part for secret in secrets for part in secret.split(":") if len(part) > 12]
    assert len(secrets) >= 3
    inspected = json.dumps(stack.containers())
    logs = stack.compose("--profile", "*", "logs").stdout
    history = "".join(
        subprocess.run(["docker", "history", "--no-trunc", image], capture_output=True, text=True, check=False).stdout
        for image in stack.images.values()
    )
    for secret in secrets:
        for place in (inspected, logs, history):
            assert secret not in place


def test_services_run_without_root_capabilities_and_a_writable_file_system(stack: Stack) -> None:
    for container in stack.containers():
        host = container["HostConfig"]
        assert "ALL" in host["CapDrop"], container["Name"]
        once = ("credentials", "trainer")
        assert host["ReadonlyRootfs"] or container["Config"]["Labels"]["com.docker.compose.service"] in once
        bindings = host["PortBindings"] or {}
        assert all(binding["HostIp"] == "127.0.0.1" for ports in bindings.values() for binding in ports)


def test_a_training_reaches_the_store_and_neither_prefect_nor_its_database(stack: Stack) -> None:
    probe = (
        "import socket, sys\n"
        "for host, port in ('minio', 9000), ('prefect', 4200), ('postgres', 5432):\n"
        "    try: socket.create_connection((host, port), 5).close(); print(host)\n"
        "    except OSError: pass\n"
    )
    name = f"{stack.project}-probe"
    stack.compose("start", "minio", "prefect", "postgres")
    reached = {}
    for network in ("default", "control"):
        options = ("--rm", "--name", name, "--network", f"{stack.project}_{network}")
        done = subprocess.run(
            ["docker", "run", *options, stack.images["trainer"], "python", "-c", probe], capture_output=True, text=True
        )
        reached[network] = done.stdout.split()
    assert reached == {"default": ["minio"], "control": ["prefect"]}


def test_the_demo_data_is_overfitted_on_a_cpu(stack: Stack, demo_dataset: Path) -> None:
    pushed = stack.pippa("data", "push", str(demo_dataset), "--name", "robot_sim.PickNPlace")
    assert pushed.returncode == 0, pushed.stdout
    done = stack.compose(
        *("up", "train-overfit"),
        settings={"PIPPA_BASE_MODEL": "tiny"},
        stage="PIPPA_BASE_MODEL=tiny docker compose up train-overfit",
    )
    assert "train-overfit-1 exited with code 0" in done.stdout, done.stdout[-5000:]
    listed = stack.pippa("checkpoints", "list")
    assert "overfit-demo/latest" in listed.stdout


def test_a_checkpoint_is_served_to_those_who_have_the_token(stack: Stack) -> None:
    done = stack.compose("up", "--detach", "--wait", "serve", settings={"PIPPA_SERVE_CHECKPOINT": "smoke/latest"})
    assert done.returncode == 0, done.stdout[-3000:] + stack.compose("logs", "serve").stdout[-3000:]
    token = (stack.clone / ".pippa/stack/serve_token").read_text()
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.http_port}", timeout=60) as client:
        assert client.get("/health").status_code == 200
        assert client.post("/act", json={"observation": {}}).status_code == 401
        asked = client.post("/act", json={"observation": {}}, headers={"Authorization": f"Bearer {token}"})
    assert asked.status_code == 400 and "video.ego_view" in asked.text, asked.text
    stack.compose("stop", "--timeout", "5", "serve")


def test_run_returns_the_exit_code_of_the_training(stack: Stack) -> None:
    """Here 2; the test of upstream's engine sees 0."""
    refused = stack.compose("run", "--rm", "train-overfit", "--batch-size", "0")
    assert refused.returncode == 2
    assert "--batch-size" in refused.stdout


def test_a_stopped_service_saves_and_takes_its_container_along(stack: Stack, request: pytest.FixtureRequest) -> None:
    name = f"{stack.project}-stopped"
    long = ("--max-steps", "50000", "--save-steps", "10000")
    request.addfinalizer(lambda: subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True))
    assert stack.compose("run", "--detach", "--name", name, "train-smoke", *long).returncode == 0
    until(lambda: "step 1/50000" in stack.shown(name), lambda: stack.shown(name))
    began = time.monotonic()
    subprocess.run(["docker", "stop", name], check=True, capture_output=True)  # with the grace compose.yaml gives it
    stack.times.append(("docker stop: saved, uploaded, both containers ended", time.monotonic() - began))
    (stopped,) = json.loads(subprocess.run(["docker", "inspect", name], capture_output=True, text=True).stdout)
    shown = stack.shown(name)
    assert stopped["State"]["ExitCode"] == 143, shown
    assert "pippa runs resume" in shown
    assert stack.trainings() == []
    run = shown.split()[0]
    assert stack.checkpoints(run)


def test_upstreams_engine_gives_the_same_run(stack: Stack, tmp_path: Path) -> None:
    build_image("isaac-uv", tmp_path, stack.images["isaac-uv"])  # of the stand-in: upstream's needs a GPU
    done = stack.compose(
        *("run", "--rm", "train-smoke", "--engine", "isaac-uv", "--max-steps", "20", "--save-steps", "10"),
        stage="docker compose run --rm train-smoke --engine isaac-uv (stand-in), 20 steps",
    )
    assert done.returncode == 0, done.stdout[-5000:]
    latest = stack.pippa("checkpoints", "show", "smoke/latest")
    assert "isaac-uv" in latest.stdout, latest.stdout
    assert stack.trainings() == []
