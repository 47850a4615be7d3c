"""The files of deploy/: they parse, so do their scripts, and what they name exists. Long tests ask the tools."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.settings import stop_grace
from tests.support.parsing import problems
from tests.support.waiting import PATIENCE
from trainer.config.presets import PRESETS
from trainer.runner.nodes import this_node

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SETTINGS = set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text())


def load_all(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def check_shell(script: str, shell: str = "bash") -> None:
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_cloud_init_prepares_what_compose_needs():
    assert (DEPLOY / "cloud-init.yaml").read_text().startswith("#cloud-config\n")
    document = load("cloud-init.yaml")
    files = {file["path"]: file for file in document["write_files"]}
    assert all(file["permissions"] in ("0600", "0700") for file in files.values())  # they hold keys
    script = files["/opt/pippa-setup/run"]["content"]
    check_shell(script)
    check_shell(files["/opt/pippa-setup/env"]["content"])
    assert document["runcmd"] == [["/opt/pippa-setup/run"]]
    named = set(re.findall(r"^# (\w+)=", files["/opt/pippa-setup/dotenv"]["content"], flags=re.MULTILINE))
    assert named and named <= SETTINGS
    example = re.search(r'such as "(\w+) ', files["/opt/pippa-setup/env"]["content"])
    assert example is not None and example[1] in PRESETS
    given = set(re.findall(r"^(PIPPA_\w+|REGISTRY_\w+)=", files["/opt/pippa-setup/env"]["content"], flags=re.MULTILINE))
    assert all(f"${name}" in script or f"${{{name}" in script or f" {name}" in script for name in given)
    assert (DEPLOY / "machine" / "setup").stat().st_mode & 0o111 and script.rstrip().endswith("/deploy/machine/setup")


@pytest.mark.parametrize("name", ["setup", "stop"])
def test_the_scripts_of_a_machine_parse(name):
    check_shell((DEPLOY / "machine" / name).read_text())


def test_the_units_start_what_exists():
    for unit in (DEPLOY / "machine").glob("*.service"):
        for path in re.findall(r"/opt/pippa/([\w/.]+)", unit.read_text()):
            assert (ROOT / path).exists(), path
    stopping = re.search(r"^TimeoutStopSec=(\d+)", (DEPLOY / "machine/pippa.service").read_text(), flags=re.MULTILINE)
    assert stopping is not None and int(stopping[1]) > stop_grace({}) + 60


STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case " $LACKS " in *" $(basename "$0") "*) exit 127 ;; esac
case "$(basename "$0") $*" in
"id -u") echo 0 ;;
"nvidia-smi "*) echo "$DRIVER" ;;
"docker compose exec "*) exit "$STORE" ;;
esac
"""
STUBBED = "apt-get curl docker dpkg id nvidia-ctk nvidia-smi stat systemctl systemd-run usermod".split()
DOCKERS, NVIDIAS = "docker.list", "nvidia-container-toolkit.list"


class Machine:
    """A machine on which ``deploy/machine/setup`` finds stubs of what it calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls"
        self.sources = folder / "etc/apt/sources.list.d"
        self.sources.mkdir(parents=True)
        (folder / "etc/systemd/system").mkdir(parents=True)
        (folder / "etc/os-release").write_text("ID=ubuntu VERSION_CODENAME=noble\n")
        (folder / "bin").mkdir()
        for name in STUBBED:
            (folder / "bin" / name).write_text(STUB)
            (folder / "bin" / name).chmod(0o755)
        self.checkout = folder / "opt/pippa"
        shutil.copytree(DEPLOY, self.checkout / "deploy")
        script = self.checkout / "deploy/machine/setup"
        script.write_text(re.sub(r"(?<![\w.])/etc/", f"{folder}/etc/", script.read_text()))

    def set_up(
        self, *, lacks: str = "", driver: str = "580.65.06", first: str = "", store: int = 0, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it with ``settings`` in .env, on a machine that lacks some programs.

        ``first`` is what to train, and ``store`` the exit code of what asks the store for it.
        """
        (self.checkout / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        environ = {"PATH": path, "CALLS": str(self.calls), "LACKS": lacks, "DRIVER": driver, "STORE": str(store)}
        name, _, value = first.partition("=")
        environ |= {name: value} if first else {}
        command = ["bash", str(self.checkout / "deploy/machine/setup")]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    def called(self, program: str) -> list[str]:
        """The calls of ``program``."""
        return [line for line in self.calls.read_text().splitlines() if line.startswith(f"{program} ")]


@pytest.mark.parametrize(
    ("lacks", "named", "added"),
    [
        ("", "", set()),
        ("docker nvidia-ctk", "", {DOCKERS, NVIDIAS}),
        ("docker nvidia-ctk", "https://download.docker.com/linux/ubuntu", {NVIDIAS}),
        ("nvidia-ctk", "https://nvidia.github.io/libnvidia-container/stable/deb/amd64", set()),
    ],
)
def test_a_machine_gets_what_it_lacks_and_no_repository_twice(tmp_path, lacks, named, added):
    machine = Machine(tmp_path)
    (machine.sources / "image.list").write_text(f"deb [signed-by=/usr/share/keyrings/image.gpg] {named} stable\n")
    done = machine.set_up(lacks=lacks)
    assert done.returncode == (127 if lacks else 0), done.stderr  # the stub stays lacking after the install
    assert {file.name for file in machine.sources.iterdir()} - {"image.list"} == added
    installs = " ".join(line for line in machine.called("apt-get") if " install " in line)
    assert ("docker-ce" in installs) == ("docker" in lacks)
    assert ("nvidia-container-toolkit" in installs) == ("nvidia-ctk" in lacks)


def test_images_are_built_or_pulled_and_the_stack_is_a_unit(tmp_path):
    machine = Machine(tmp_path)
    assert machine.set_up().returncode == 0
    assert "docker compose build" in machine.called("docker") and not machine.called("systemd-run")
    assert "systemctl enable pippa pippa-spot" in machine.called("systemctl")
    unit = (tmp_path / "etc/systemd/system/pippa.service").read_text()
    assert f"WorkingDirectory={machine.checkout}\n" in unit and "/opt/pippa/deploy" in unit
    machine.calls.unlink()
    assert machine.set_up(PIPPA_REGISTRY="ghcr.io/us/pippa").returncode == 0
    assert "docker compose pull --quiet --policy missing" in machine.called("docker")
    assert "docker compose build" not in machine.called("docker")
    assert "PIPPA_PULL_POLICY=missing\n" in (machine.checkout / ".env").read_text()  # for `up` too


def test_a_machine_without_a_driver_is_refused_unless_it_is_meant(tmp_path):
    machine = Machine(tmp_path)
    refused = machine.set_up(lacks="nvidia-smi")
    assert refused.returncode == 1 and "PIPPA_GPUS=none" in refused.stderr
    old = machine.set_up(driver="570.10")
    assert old.returncode == 1 and "570.10, and 580 or newer" in old.stderr
    assert not machine.called("apt-get") and not machine.called("docker")
    meant = machine.set_up(lacks="nvidia-smi nvidia-ctk", PIPPA_GPUS="none")
    assert meant.returncode == 0, meant.stderr
    assert "trainings use the CPU" in meant.stdout and not machine.called("nvidia-ctk")


@pytest.mark.parametrize(
    ("first", "asks", "starts"),
    [
        ("PIPPA_TRAIN=smoke --max-steps 20", "store create", "train smoke --max-steps 20"),
        ("PIPPA_RESUME=smoke-20261129-170223-6b91", "runs show smoke-20261129-170223-6b91", "runs resume smoke-"),
    ],
)
def test_the_first_training_starts_once_and_when_the_store_has_what_it_needs(tmp_path, first, asks, starts):
    machine = Machine(tmp_path)
    (machine.checkout / ".pippa/stack").mkdir(parents=True)
    assert machine.set_up(first=first, store=4).returncode == 4
    assert any(f"pippa {asks}" in call for call in machine.called("docker")) and not machine.called("systemd-run")
    for _ in range(2):
        assert machine.set_up(first=first).returncode == 0
    [started] = machine.called("systemd-run")
    assert f"pippa {starts}" in started and started.endswith("--launcher remote")


def test_the_skypilot_task_names_what_exists():
    document = load("skypilot.yaml")
    check_shell(document["setup"], "sh")
    assert re.search(r"apt-get install .*\bgit-lfs\b", document["setup"])  # the demo data of two presets is in it
    check_shell(document["run"], "sh")
    assert document["envs"]["PRESET"] in PRESETS
    own = {"PRESET", "FLAGS", "RESUME"}
    skypilots = {"SKYPILOT_NUM_GPUS_PER_NODE", "SKYPILOT_NUM_NODES", "SKYPILOT_TASK_ID"}
    assert skypilots <= set(re.findall(r"\$(\w+)", document["run"]))  # one run on every node, and when it is recovered
    assert set(document["envs"]) - own <= SETTINGS and set(document["secrets"]) <= SETTINGS
    assert set(re.findall(r"\$\{?(\w+)", document["run"])) <= own | skypilots | {"HOME", "PATH"}
    groups = re.findall(r"--group (\w+)", document["setup"])
    declared = (ROOT / "pyproject.toml").read_text()
    assert groups and all(f"\n{group} = [" in declared for group in groups)


@pytest.mark.parametrize(("name", "gpus"), [("kubernetes-job.yaml", 1), ("kubernetes-nodes.yaml", 8)])
def test_the_kubernetes_jobs_fit_the_image(name, gpus):
    job = load_all(name)[-1]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    image = (ROOT / "docker" / "trainer.Dockerfile").read_text()
    assert f"\nUSER {pod['securityContext']['runAsUser']}\n" in image
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"PIPPA_HOME={mounts['home']} " in image and mounts["shm"] == "/dev/shm"
    assert container["args"][:2] == ["trainer", "run"] and container["args"][2] in PRESETS
    assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    assert container["args"][-2:] == ["--job", "$(JOB)"]  # a second pod is the same run
    never = job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]
    assert never["containerName"] == container["name"] and 7 not in never["values"] and 4 not in never["values"]
    (keys,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    files = {f"{mounts['keys']}/{item['path']}" for item in keys["items"]}
    for variable in container["env"]:
        assert variable["name"] == "JOB" or variable["name"].removesuffix("_FILE") in SETTINGS
        if variable["name"].endswith("_FILE"):
            assert variable["value"] in files


def test_the_nodes_of_the_kubernetes_job_find_each_other():
    service, job = load_all("kubernetes-nodes.yaml")
    name, pod = job["metadata"]["name"], job["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    environ = {variable["name"]: variable.get("value") for variable in container["env"]}
    args = container["args"]
    flags = dict(zip(args[3::2], args[4::2], strict=True))
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(flags["--num-nodes"])
    assert flags["--num-gpus"] == str(container["resources"]["limits"]["nvidia.com/gpu"])
    assert environ["PET_MASTER_ADDR"] == f"{name}-0.{service['metadata']['name']}"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    node = this_node(2, {**{k: v for k, v in environ.items() if v}, "JOB_COMPLETION_INDEX": "1"})
    assert (node.rank, node.host, node.port) == (1, environ["PET_MASTER_ADDR"], 29400)


KUBERNETES = """
import sys, json, kubernetes_validate as k
for document in json.load(sys.stdin):
    document["metadata"]["name"] = "named"  # it knows no generateName
    k.validate(document, k.latest_version(), strict=True)
"""
SKYPILOT = """
import sys, json
from click.testing import CliRunner
from sky.client.cli import command

# From here on SkyPilot's server would be asked for machines.
launched = []
def launch(task, *_, **given):
    launched.append((getattr(task, "tasks", [task])[0], given))
    raise KeyboardInterrupt
command.sdk.launch = command.managed_jobs.launch = launch

told = []
for words in json.load(sys.stdin):
    result = CliRunner().invoke(command.cli, [*words[1:], "--yes"])
    if not launched:
        raise SystemExit(f"{words}: {result.output} {result.exception}")
    task, given = launched.pop()
    told.append({
        "envs": dict(task.envs), "nodes": task.num_nodes, "down": given.get("down"), "secrets": list(task.secrets),
        "spot": [each.use_spot for each in task.resources],
        "recovers": [each.job_recovery["recover_on_exit_codes"] for each in task.resources],
    })
print("TOLD", json.dumps(told))
"""


def asked_of(tool: str, code: str, document: object, home: Path, **environ: str) -> str:
    """What ``code`` prints, run with the package ``tool``, of what it is given."""
    cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    done = subprocess.run(
        ["uv", "tool", "run", "--quiet", "--from", tool, "python", "-c", code],
        input=json.dumps(document),
        cwd=ROOT,
        env={**os.environ, "UV_CACHE_DIR": cache, "HOME": str(home), **environ},  # SkyPilot leaves files in HOME
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kubernetes-job.yaml", "kubernetes-nodes.yaml"])
def test_kubernetes_own_schema_takes_it(tmp_path, name):
    asked_of("kubernetes-validate==1.37.0", KUBERNETES, load_all(name), tmp_path)


def skypilot_commands() -> list[list[str]]:
    """The command lines of ``sky`` that the docs and the file itself name, with values in place of dots."""
    texts = [(ROOT / "docs/deploy.md").read_text(), (DEPLOY / "skypilot.yaml").read_text().replace("\n#  ", "\n")]
    joined = "\n".join(texts).replace("\\\n", " ").replace("…", "given")
    return [shlex.split(line) for line in re.findall(r"^ *(sky .*)$", joined, flags=re.MULTILINE)]


@pytest.mark.slow
def test_skypilot_takes_each_documented_command(tmp_path):
    keys = {"PIPPA_S3_ACCESS_KEY": "access", "PIPPA_S3_SECRET_KEY": "secret", "WANDB_API_KEY": "wandb"}
    printed = asked_of("skypilot==0.14.1", SKYPILOT, skypilot_commands(), tmp_path, **keys)
    _, _, document = printed.partition("TOLD ")
    launched, managed, resumed, down = json.loads(document)
    for each in (launched, managed, resumed, down):
        assert each["recovers"] == [[4, 7]] * 3  # a managed job recovers by itself
        assert each["envs"]["PIPPA_S3_ENDPOINT"] == "https://given" and keys.keys() <= set(each["secrets"])
    assert launched["envs"]["PRESET"] == "blog" and launched["nodes"] == 1 and not any(launched["spot"])
    assert managed["nodes"] == 2 and all(managed["spot"]) and resumed["envs"]["RESUME"] == "given"
    assert down["down"] and not launched["down"]


@pytest.mark.parametrize(("run", "words"), [("", "pippa train blog"), ("blog-1", "pippa runs resume blog-1")])
def test_what_the_skypilot_task_runs_is_a_command(tmp_path, run, words):
    document = load("skypilot.yaml")
    stub = tmp_path / ".local/bin/uv"
    stub.parent.mkdir(parents=True)
    stub.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    stub.chmod(0o755)
    skypilots = {"SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_TASK_ID": "sky-managed-7"}
    given = {**document["envs"], "PIPPA_S3_ENDPOINT": "https://s3", "FLAGS": "--batch-size 16", "RESUME": run}
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **given, **skypilots}
    done = subprocess.run(["sh", "-c", document["run"]], env=environ, capture_output=True, text=True, check=True)
    command = done.stdout.split()
    assert command[:2] == ["run", "--no-sync"] and " ".join(command[2:]).startswith(words)
    assert problems([command[2:]]) == [None]
    assert {"--num-gpus 8", "--num-nodes 2"} <= set(map(" ".join, pairwise(command)))


@pytest.mark.docker
@pytest.mark.slow
def test_cloud_inits_own_schema_takes_it(docker_client):
    script = "apt-get update -q && apt-get install -yq --no-install-recommends cloud-init && cloud-init schema -c /c"
    container = docker_client.containers.create(
        "python:3.11-slim-bookworm",
        ["sh", "-c", f"({script}) 2>&1"],
        volumes={str(DEPLOY / "cloud-init.yaml"): {"bind": "/c", "mode": "ro"}},
    )
    try:
        container.start()
        code = container.wait(timeout=PATIENCE)["StatusCode"]
        printed = container.logs().decode()
    finally:
        container.remove(force=True)
    assert code == 0 and "Valid" in printed, printed[-2000:]
