"""Mistakes that a person makes, each ending at once with its exit code and its cure, and with nothing started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from flows import cli, preflight

NOWHERE = "http://127.0.0.1:9"
RUN = "smoke-20260101-000000-abcd"


class Mistake(NamedTuple):
    """A command line, perhaps with settings, and how it ends."""

    line: str
    code: int
    says: tuple[str, ...]
    environ: Mapping[str, str] = MappingProxyType({})


NOTHING_YET = {
    "checkpoint": "evaluate a/best, checkpoints show latest, checkpoints pull latest out, "
    "checkpoints export latest out, checkpoints verify latest, checkpoints alias good latest",
    "run": f"report {RUN}, runs show {RUN}, runs compare {RUN} b, runs pull {RUN} out, runs sync {RUN}, "
    f"runs resume {RUN}",
    "dataset": "data pull robot out",
    "object store": "checkpoints gc --delete, store check --repair",
}
MISTAKES = [
    *(
        Mistake(line, 2, (f"There is no {kind} yet: ", "/store is not there", "`pippa ", "PIPPA_S3_ENDPOINT"))
        for kind, lines in NOTHING_YET.items()
        for line in lines.split(", ")
    ),
    Mistake("tarin smoke", 2, ("no command `pippa tarin`", "Did you mean `pippa train`?")),
    Mistake("smoke", 2, ("Did you mean `pippa train smoke`?",)),
    Mistake("verify latest", 2, ("Did you mean `pippa checkpoints verify`?",)),
    Mistake("checkpoints pul a b", 2, ("Did you mean `pippa checkpoints pull`?",)),
    Mistake("checkpoints pull latest", 2, ("required: FOLDER", "usage: pippa checkpoints pull")),
    Mistake("train", 2, ("Name a preset, or a dataset", "overfit-best")),
    Mistake("train smok", 2, ("'smok' is not one of", "Did you mean smoke?")),
    Mistake("train smoke --bach-size 4", 2, ("no flag --bach-size", "Did you mean --batch-size?")),
    Mistake("train smoke --lr 1e-4", 2, ("no flag --lr", "Did you mean --learning-rate?")),
    Mistake("train smoke --tune-llm false", 2, ("--tune-llm takes no value", "write --no-tune-llm")),
    Mistake("train smoke --max-steps many", 2, ("--max-steps: 'many' is not a whole number",)),
    Mistake("train smoke --batch-size 0", 2, ("--batch-size: 0 must be at least 1",)),
    Mistake("train smoke --batch-size", 2, ("--batch-size needs a value",)),
    Mistake("train smoke --launcher dokcer", 2, ("--launcher: 'dokcer' is not one of", "Did you mean docker?")),
    Mistake("train smoke --data-config so101", 2, ("No data config is called 'so101'", "Did you mean so100?")),
    Mistake("train smoke --data-config absent.toml", 2, ("There is no file absent.toml",)),
    Mistake("train smoke --num-gpus 2", 2, ("--num-gpus 2", "no NVIDIA GPU", "Use --num-gpus 1")),
    Mistake("train smoke --output-dir /proc/nope", 2, ("--output-dir: can't write to /proc/nope",)),
    Mistake("train smoke --dataset-path ./absent", 2, ("There is no folder ./absent",)),
    Mistake("train smoke --dataset-path synthetc.PickNPlace", 2, ("Did you mean synthetic.PickNPlace?",)),
    Mistake("train smoke --dataset-path ./broken", 3, ("can't be trained on",)),
    Mistake("train smoke --base-model-path ./broken", 2, ("it has no config.json",)),
    Mistake("train smoke --engine isaac-uv", 2, ("PIPPA_FINETUNE_COMMAND", "--launcher docker")),
    Mistake("train smoke --preset absent.toml", 2, ("Two presets",)),
    Mistake("train --preset absent.toml", 2, ("there is no file absent.toml",)),
    Mistake("train smoke --name Kitchen_2", 2, ("such as kitchen-2",)),
    Mistake("train smoke", 2, ("PIPPA_HOME: can't write to /proc/nope",), {"PIPPA_HOME": "/proc/nope"}),
    Mistake("train smoke", 2, ("PIPPA_HOME: can't write to", "it is a file"), {"PIPPA_HOME": "file"}),
    Mistake("data push ./broken --data-config so100", 3, ("can't be trained on",)),
    Mistake("data push ./broken", 3, ("it has no meta/episodes.jsonl and no data/**/*.parquet",)),
    Mistake("models add tiny", 2, ("/proc/nope can't be made", "Set PIPPA_HOME"), {"PIPPA_HOME": "/proc/nope"}),
    Mistake(
        "train smoke", 4, (f"The Prefect server {NOWHERE}/api does not answer",), {"PREFECT_API_URL": f"{NOWHERE}/api"}
    ),
    Mistake("train smoke --launcher remote", 2, ("PREFECT_API_URL is not set",)),
    Mistake(
        "train smoke --launcher docker",
        4,
        ("Docker daemon", "/absent.sock is missing"),
        {"DOCKER_HOST": "unix:///absent.sock"},
    ),
    Mistake("train smoke", 4, ("No keys for the object store", "PIPPA_S3_ACCESS_KEY"), {"PIPPA_S3_ENDPOINT": NOWHERE}),
    Mistake("runs list", 4, ("not the URL of an S3 endpoint",), {"PIPPA_S3_ENDPOINT": "minio:9000"}),
    Mistake("train smoke", 2, ("PIPPA_LAUNCHER is 'banana'",), {"PIPPA_LAUNCHER": "banana"}),
    Mistake("train smoke", 2, ("PIPPA_FRAME_CACHE is 'lots'",), {"PIPPA_FRAME_CACHE": "lots"}),
    Mistake("server --port 99999", 2, ("--port 99999", "from 1 to 65535")),
    Mistake("server --port BUSY", 2, ("another program listens on", "choose another port")),
    Mistake("server --host 0.0.0.0 --port 4999", 2, ("there is no password",)),
    Mistake("worker", 2, ("PREFECT_API_URL is not set",)),
    Mistake("runs follow RUN", 2, ("PREFECT_API_URL is not set",)),
    Mistake("checkpoints alias latest x", 2, ("moved by pippa itself",)),
    Mistake("completion fish", 2, ("'fish' is not one of bash, zsh, tcsh",)),
]
SETTINGS = "PIPPA_HOME PIPPA_LAUNCHER PIPPA_ENGINE PIPPA_S3_ENDPOINT PIPPA_FINETUNE_COMMAND PREFECT_API_URL DOCKER_HOST"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a file and a dataset that is none, on a machine without GPUs and settings."""
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS.split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(preflight, "cards", lambda *_: [])
    (tmp_path / "file").touch()
    (tmp_path / "broken" / "meta").mkdir(parents=True)
    (tmp_path / "broken" / "meta" / "info.json").write_text("{}")
    environ = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield tmp_path
    os.environ.clear()
    os.environ.update(environ)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake.line} {' '.join(mistake.environ)}")
def test_a_mistake_ends_with_its_code_and_its_cure(mistake, alone, monkeypatch, capsys):
    for name, value in mistake.environ.items():
        monkeypatch.setenv(name, str(alone / value) if value == "file" else value)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        code = cli.main([port if word == "BUSY" else word for word in mistake.line.split()])
    said = capsys.readouterr().err
    assert code == mistake.code, said
    assert not [words for words in mistake.says if words not in said], said
    assert "Traceback" not in said and "defect" not in said
    left = {path.name for path in alone.iterdir()} - {"file", "broken"}
    # What would write to the store may make it; a training that is refused makes nothing.
    assert not left or mistake.line.startswith(("data push", "runs list")), left


def test_all_mistakes_of_a_command_are_said_at_once(capsys):
    flags = "--lr 1 --batch-size 0 --data-config so101 --launcher dokcer --name Kitchen --tune-llm no".split()
    assert cli.main(["train", "smoke", *flags]) == 2
    said = capsys.readouterr().err
    for words in ("--lr", "--batch-size", "so101", "dokcer", "kitchen", "--no-tune-llm"):
        assert words in said
    assert cli.main("train smoke --num-gpus 2 --output-dir /proc/nope --dataset-path ./absent".split()) == 2
    said = capsys.readouterr().err
    for words in ("--num-gpus 2", "/proc/nope", "./absent"):
        assert words in said


def test_a_mistake_is_found_before_prefect_or_torch_is_imported(alone):
    code = "import json, sys; from flows.cli import main; main(sys.argv[1:]); print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code, "train", "smoke", "--output-dir", "/proc/nope"]
    done = subprocess.run(command, cwd=alone, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "/proc/nope" in done.stderr
    assert not loaded & {"prefect", "torch", "transformers", "docker", "pyarrow", "av"}
