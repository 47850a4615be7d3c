"""The files of deploy/: they parse, so do their scripts, and what they name exists. Long tests ask the tools."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    services = load("../compose.yaml")["services"]
    said = re.search(r"# What to train .*: (.*)\. Empty", files["/opt/pippa-setup/env"]["content"])
    assert said is not None
    for name in re.findall(r"[\w-]+", said[1].replace(" or ", " ")):
        assert f"train-{name}" in services


STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case " $LACKS " in *" $(basename "$0") "*) exit 127 ;; esac
"""
STUBBED = "apt-get chown curl docker dpkg getent git nvidia-ctk nvidia-smi runuser systemctl usermod".split()
DOCKERS, NVIDIAS = "docker.list", "nvidia-container-toolkit.list"


@pytest.mark.parametrize(
    ("lacks", "named", "added", "installed"),
    [
        ("", "", set(), False),
        ("docker nvidia-ctk", "", {DOCKERS, NVIDIAS}, True),
        ("docker nvidia-ctk", "https://download.docker.com/linux/ubuntu", {NVIDIAS}, True),
        ("nvidia-ctk", "https://nvidia.github.io/libnvidia-container/stable/deb/amd64", set(), False),
    ],
)
def test_cloud_init_names_no_repository_twice(tmp_path, lacks, named, added, installed):
    sources = tmp_path / "etc/apt/sources.list.d"
    sources.mkdir(parents=True)
    (sources / "image.list").write_text(f"deb [signed-by=/usr/share/keyrings/image.gpg] {named} stable\n")
    (tmp_path / "etc/os-release").write_text("ID=ubuntu VERSION_CODENAME=noble\n")
    (tmp_path / "bin").mkdir()
    for name in STUBBED:
        (tmp_path / "bin" / name).write_text(STUB)
        (tmp_path / "bin" / name).chmod(0o755)
    files = {file["path"]: file["content"] for file in load("cloud-init.yaml")["write_files"]}
    for path, content in files.items():
        here = tmp_path / path.lstrip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_text(re.sub(r"(?<![\w.])/(etc|opt)/", rf"{tmp_path}/\1/", content))
    (tmp_path / "opt/pippa/.git").mkdir(parents=True)
    calls = tmp_path / "calls"
    environ = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "CALLS": str(calls), "LACKS": lacks}
    (tmp_path / "opt/pippa-setup/env").write_text(
        "PIPPA_REPOSITORY=https://git.example/pippa PIPPA_REF=main PIPPA_TRAIN="
    )
    command = ["bash", str(tmp_path / "opt/pippa-setup/run")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == (127 if lacks else 0), done.stderr  # the stub stays lacking after the install
    assert {file.name for file in sources.iterdir()} - {"image.list"} == added
    (install,) = [line for line in calls.read_text().splitlines() if line.startswith("apt-get install")]
    assert ("docker-ce" in install) == installed and ("nvidia-container-toolkit" in install) == ("nvidia-ctk" in lacks)


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
import sys, json, sky
(document,) = json.load(sys.stdin)
for group in ("envs", "secrets"):
    document[group] = {name: value or "given" for name, value in document[group].items()}
sky.Task.from_yaml_config(document)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tool", "code"),
    [
        ("kubernetes-job.yaml", "kubernetes-validate==1.37.0", KUBERNETES),
        ("kubernetes-nodes.yaml", "kubernetes-validate==1.37.0", KUBERNETES),
        ("skypilot.yaml", "skypilot==0.14.1", SKYPILOT),
    ],
)
def test_the_tools_own_schema_takes_it(tmp_path, name, tool, code):
    cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    done = subprocess.run(
        ["uv", "tool", "run", "--quiet", "--from", tool, "python", "-c", code],
        input=json.dumps(load_all(name)),
        env={**os.environ, "UV_CACHE_DIR": cache, "HOME": str(tmp_path)},  # SkyPilot leaves files in HOME
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


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
