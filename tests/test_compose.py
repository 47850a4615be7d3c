"""What compose.yaml, the Dockerfiles and .env.example promise, read off the files; tests/e2e runs them.

What Compose makes of compose.yaml is tried with stand-ins for the images, which do nothing until they are stopped.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml

from flows.commands.server import server_environment
from flows.credentials import CREDENTIALS
from flows.launch.docker.images import image_name
from tests.support.waiting import PATIENCE
from trainer import serve
from trainer.command_line import Parser
from trainer.config.presets import PRESETS
from trainer.config.run_spec import Engine

if TYPE_CHECKING:
    import docker

ROOT = Path(__file__).parents[1]
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(?::[-+]([^{}]*))?\}")
"""One in whose default there is no other."""
SERVICES_OF_PRESETS = {
    "train-smoke": "smoke",
    "train-overfit": "overfit-demo",
    "train-overfit-long": "overfit-long",
    "train-blog": "blog",
    "train-smoke-n17": "smoke-n17",
    "train-overfit-n17": "overfit-demo-n17",
    "train-so101-n17": "so101-n17",
    "train-blog-n17": "blog-n17",
    "train-libero-n17": "libero-n17",
}


def resolved(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What Compose makes of ``text`` without any setting, and each variable in it with its default."""
    found = []
    while match := VARIABLE.search(text):
        found.append((match[1], match[2] or ""))
        text = text[: match.start()] + (match[2] or "") + text[match.end() :]
    return text, found


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def documented() -> dict[str, str]:
    """Every setting of .env.example with the value its line shows."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    found = [re.match(r"(?:# )?([A-Z][A-Z0-9_]+)=([^ ]*)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_each_preset_has_a_service(compose: dict[str, Any]) -> None:
    trains = {name: service["entrypoint"][3] for name, service in compose["services"].items() if "train-" in name}
    assert trains == SERVICES_OF_PRESETS
    assert set(trains.values()) <= set(PRESETS)


def test_what_is_built_here_is_never_pulled(compose: dict[str, Any]) -> None:
    images = {name: resolved(service["image"])[0] for name, service in compose["services"].items()}
    ours = {name: compose["services"][name] for name, image in images.items() if image.startswith("pippa/")}
    assert all(images[name].endswith(":local") for name in ours)
    assert len(ours) == len(compose["services"]) - 1  # all but Postgres
    for name, service in ours.items():
        expected = "${PIPPA_PULL_POLICY:-never}" if "build" in service else "never"
        assert service.get("pull_policy") == expected, name


def test_one_setting_names_all_images_in_a_registry(compose: dict[str, Any]) -> None:
    """As ``flows.launch.docker.images`` names them for who works without Compose."""
    registry = {"PIPPA_REGISTRY": "ghcr.io/us/pippa", "PIPPA_TAG": "v1"}
    for name, service in compose["services"].items():
        if name != "postgres":
            before, image = service["image"].removesuffix("}").split(":-", 1)
            expected = VARIABLE.sub(lambda found: registry[found[1]], image)
            assert re.fullmatch(r"ghcr\.io/us/pippa/[a-z0-9-]+:v1", expected), name
            assert re.fullmatch(r"\$\{PIPPA_[A-Z0-9_]+_IMAGE", before), name
    named = compose["services"]["worker"]["environment"]
    for engine in get_args(Engine):
        image = named[f"PIPPA_{'TRAINER' if engine == 'native' else engine.upper().replace('-', '_')}_IMAGE"]
        shown = VARIABLE.sub(lambda found: registry[found[1]], image).removesuffix("}")
        assert shown.endswith(image_name(engine, registry))


def test_ports_are_open_to_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports), ports


def test_who_holds_a_gpu_outlives_prefects_container(compose: dict[str, Any]) -> None:
    [home] = re.findall(r"PIPPA_HOME=(\S+)", (ROOT / "docker/flows.Dockerfile").read_text())
    environ = server_environment(Path(home), {"PIPPA_POSTGRES_HOST": "postgres", "PIPPA_POSTGRES_PASSWORD": "secret"})
    assert environ["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith(".filesystem")
    mounted = {
        target: name for name, target in (each.split(":")[:2] for each in compose["services"]["prefect"]["volumes"])
    }
    assert mounted[environ["PREFECT_HOME"]] in compose["volumes"]
    # An empty volume takes over the owner of what it covers.
    assert re.search(
        rf"install -d -o pippa .*{environ['PREFECT_HOME']}\b", (ROOT / "docker/flows.Dockerfile").read_text()
    )


def test_a_checkpoint_is_served_as_the_command_line_serves_it(compose: dict[str, Any], tmp_path: Path) -> None:
    service = compose["services"]["serve"]
    program, command, *arguments = service["command"]
    parser = Parser()
    serve.add_arguments(parser)
    given = parser.parse_args([resolved(argument)[0] for argument in arguments])
    assert (program, command, given.checkpoint) == ("trainer", "serve", "latest")
    # It listens beyond its container, which takes a token; the ports are those that the container publishes.
    token = next(each for each in CREDENTIALS if each.setting == serve.TOKEN)
    assert token.make is not None and token.on_host
    (tmp_path / token.file).write_text(token.make())
    file = service["environment"][f"{serve.TOKEN}_FILE"].replace("/run/pippa", str(tmp_path))
    address, required = serve.required(given, {f"{serve.TOKEN}_FILE": file})
    assert address == "0.0.0.0" and required == (tmp_path / token.file).read_text()
    assert [port.rpartition(":")[2] for port in service["ports"]] == [str(given.port), str(given.http_port)]
    assert service["image"] == compose["services"]["trainer"]["image"] and "build" not in service
    assert service["profiles"] == ["serve"]  # `docker compose up` alone starts none


def test_compose_resolves_the_service_of_a_checkpoint() -> None:
    """With Compose itself, which needs no daemon for it."""
    if not shutil.which("docker"):
        pytest.skip("docker compose is not installed here")
    settings = {"PIPPA_SERVE_CHECKPOINT": "kitchen/best", "PIPPA_SERVE_RUNTIME": "nvidia", "PIPPA_SERVE_PORT": "5600"}
    done = subprocess.run(
        ["docker", "compose", "--profile", "serve", "config", "--format", "json"],
        cwd=ROOT,
        env={**_kept(), **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    service = json.loads(done.stdout)["services"]["serve"]
    assert service["command"] == ["trainer", "serve", "kitchen/best", "--host", "0.0.0.0"]
    assert service["runtime"] == "nvidia"
    assert {(port["host_ip"], port["published"], port["target"]) for port in service["ports"]} == {
        ("127.0.0.1", "5600", 5555),
        ("127.0.0.1", "8000", 8000),
    }


def test_other_services_reach_prefect(compose: dict[str, Any]) -> None:
    prefect = compose["services"]["prefect"]
    assert prefect["command"][-2:] == ["--host", "0.0.0.0"]
    assert "PREFECT_API_AUTH_STRING_FILE" in prefect["environment"]


def test_no_service_gets_a_secret_as_a_variable(compose: dict[str, Any]) -> None:
    secret = {credential.setting for credential in CREDENTIALS}
    for name, service in compose["services"].items():
        environment = service.get("environment", {})
        assert not secret & set(environment), name
        for variable, value in environment.items():
            assert not secret & {match[0] for match in resolved(str(value))[1]}, (name, variable)


def test_the_credentials_service_is_given_every_secret_that_the_user_may_set(compose: dict[str, Any]) -> None:
    lines = compose["configs"]["given"]["content"].splitlines()
    assert lines == [f"{credential.setting}=${{{credential.setting}:-}}" for credential in CREDENTIALS]


def test_the_files_that_services_read_are_those_that_are_written(compose: dict[str, Any]) -> None:
    written = {f"/run/pippa/{credential.file}" for credential in CREDENTIALS}
    read = {
        value
        for service in compose["services"].values()
        for name, value in service.get("environment", {}).items()
        if name.endswith("_FILE")
    }
    assert read == written


def test_every_setting_of_the_stack_is_documented_with_its_default(documented: dict[str, str]) -> None:
    text = (ROOT / "compose.yaml").read_text()
    for name, default in resolved(text)[1]:
        assert name in documented, f"{name} is missing in .env.example"
        if default and "://" not in default and default != "another-store":
            assert documented[name] == default, name


def test_dockerfiles_are_clean() -> None:
    files = [*(ROOT / "docker").glob("*.Dockerfile"), *(ROOT / ".ci").rglob("*.Dockerfile")]
    assert len(files) >= 3
    done = subprocess.run(["hadolint", *files], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda file: file.stem)
def test_images_are_labelled_and_give_up_root(file: Path) -> None:
    text = file.read_text()
    for label in ("title", "source", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in text, label
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users[-1] == "1000"


def test_the_build_context_holds_what_is_named_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert not any(line.startswith(("!.env", "!.pippa", "!tests")) for line in lines)


STAND_IN = """
FROM debian:bookworm-slim
COPY --chmod=755 standin /usr/local/bin/entrypoint
RUN for name in python curl pg_isready; do ln -s /bin/true /usr/local/bin/$name; done
ENTRYPOINT ["entrypoint"]
"""
PROGRAM = """#!/bin/sh
[ "$1" != trainer ] || exit 0
trap "sleep 1; exit 143" TERM
sleep infinity & wait
"""


class StandIns:
    """A project of compose.yaml whose Dockerfiles are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.name = f"pippa-test-{secrets.token_hex(4)}"
        self.folder = folder
        self.images = {name: f"{self.name}/{name}:local" for name in ("flows", "trainer", "minio", "postgres")}
        shutil.copy(ROOT / "compose.yaml", folder)
        (folder / "standin").write_text(PROGRAM)
        (folder / "docker").mkdir()
        for name in self.images:
            # A separate image each, so that removing one leaves the others.
            (folder / f"docker/{name}.Dockerfile").write_text(f"{STAND_IN}LABEL name={name}\n")

    def compose(self, *arguments: str) -> str:
        """What ``docker compose ARGUMENTS`` prints."""
        return self.docker("compose", *arguments)

    def states(self) -> dict[str, tuple[str, str]]:
        """Of each service that has a container: its status, and when it ended."""
        template = '{{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} {{.State.FinishedAt}}'
        listed = self.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}").split()
        lines = self.docker("inspect", "--format", template, *listed).splitlines()
        return {service: (status, ended) for service, status, ended in map(str.split, lines)}

    def docker(self, *arguments: str) -> str:
        """What ``docker ARGUMENTS`` prints, in the project's folder and with its settings."""
        settings = {f"PIPPA_{name.upper()}_IMAGE": tag for name, tag in self.images.items()}
        done = subprocess.run(
            ["docker", *arguments],
            cwd=self.folder,
            # Port 0 is one that is free.
            env={**_kept(), **settings, "COMPOSE_PROJECT_NAME": self.name, **dict.fromkeys(PORTS, "0")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


PORTS = ("PIPPA_PREFECT_PORT", "PIPPA_MINIO_PORT", "PIPPA_SERVE_PORT", "PIPPA_SERVE_HTTP_PORT")


def _kept() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPPA_", "COMPOSE_"))}
    return {**kept, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


@pytest.fixture(scope="module")
def stand_ins(docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIns]:
    project = StandIns(tmp_path_factory.mktemp("project"))
    project.docker("build", "-q", "-t", project.images["postgres"], "-f", "docker/postgres.Dockerfile", ".")
    try:
        yield project
    finally:
        project.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "1")
        project.docker("rmi", "--force", *project.images.values())


@pytest.mark.docker
def test_up_builds_what_is_missing_and_starts_no_training(stand_ins: StandIns) -> None:
    shown = stand_ins.compose("up", "--detach")
    assert "Pull" not in shown, shown
    assert stand_ins.compose("images", "--quiet", "minio").strip()
    running = {service for service, (status, _) in stand_ins.states().items() if status == "running"}
    assert running == {"worker", "prefect", "postgres", "minio"}


@pytest.mark.docker
def test_with_every_profile_a_training_is_stopped_before_its_store(stand_ins: StandIns) -> None:
    stand_ins.compose("up", "--detach", "train-smoke")
    stand_ins.compose("--profile", "*", "stop")
    states = stand_ins.states()
    assert {status for status, _ in states.values()} == {"exited"}
    ended = {service: when for service, (_, when) in states.items()}
    assert ended["train-smoke"] < min(ended["minio"], ended["prefect"], ended["postgres"])
