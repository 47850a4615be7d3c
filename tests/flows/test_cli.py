from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows import cli
from trainer.config.argv import parse_flags, resolve
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import PRESETS


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Each test in an empty folder, without settings from outside, and without leaving signal handlers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    for name in (
        "PIPPA_HOME",
        "PIPPA_DEBUG",
        "PIPPA_S3_ENDPOINT",
        "PREFECT_API_URL",
        "WANDB_API_KEY",
        "WANDB_MODE",
        "WANDB_ENTITY",
    ):
        monkeypatch.delenv(name, raising=False)
    environ = dict(os.environ)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environ)


def pippa(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_alone_it_says_what_to_try(capsys):
    code, out, _ = pippa(capsys)
    assert code == 0 and "pippa train smoke" in out
    for command in cli.COMMANDS:
        assert f"  {command.words}" in out


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.words)
def test_every_command_has_help(capsys, command):
    code = cli.main([*command.words.split(), "--help"])
    assert code == 0 and f"pippa {command.words}" in capsys.readouterr().out


def test_version(capsys):
    assert pippa(capsys, "--version")[1].startswith("pippa 0")


@pytest.mark.parametrize(
    ("argv", "named", "suggested"),
    [
        (["tarin", "smoke"], "pippa tarin", "pippa train"),
        (["smoke"], "pippa smoke", "pippa train smoke"),
        (["checkpoints", "pul", "x", "y"], "pippa checkpoints pul", "pippa checkpoints pull"),
        (["train", "smok"], "'smok'", "smoke"),
        (["train", "smoke", "--batch-sise", "4"], "--batch-sise", "--batch-size"),
        (["train", "smoke", "--tune-llm", "false"], "--tune-llm takes no value", "--no-tune-llm"),
        (["train", "smoke", "--launcher", "dokcer"], "dokcer", "process"),
        (["train"], "preset", "overfit-demo"),
        (["train", "smoke", "--batch-size", "0"], "--batch-size", "0"),
        (["train", "smoke", "--dataset-path", "./nowhere"], "./nowhere", "nowhere"),
        (["train", "smoke", "--base-model-path", "./nowhere"], "./nowhere", "config.json"),
        (["presets", "compare", "blog", "overfit"], "'overfit'", "overfit-"),
        (["data", "push"], "path", "usage: pippa data push"),
    ],
)
def test_a_mistake_ends_in_2_with_the_cure_and_touches_nothing(capsys, tmp_path, argv, named, suggested):
    code, out, err = pippa(capsys, *argv)
    assert code == 2 and out == ""
    assert named in err and suggested in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_broken_dataset_ends_in_3_before_anything_starts(capsys, tmp_path):
    (tmp_path / "data" / "meta").mkdir(parents=True)
    (tmp_path / "data" / "meta" / "info.json").write_text("{}")
    for argv in (
        ["train", "smoke", "--dataset-path", "./data"],
        ["data", "check", "data", "--data-config", "so100_dualcam"],
        ["data", "push", "data", "--data-config", "so100_dualcam"],
    ):
        code, _, err = pippa(capsys, *argv)
        assert code == 3 and "can't be trained on" in err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_lists_of_nothing_start_no_server(capsys, tmp_path):
    for words in ("runs", "checkpoints", "data"):
        code, out, _ = pippa(capsys, words)
        assert code == 0 and "pippa train smoke" in out
    assert list(tmp_path.iterdir()) == []


def test_wrong_keys_end_in_4(capsys, s3_settings, monkeypatch):
    for name, value in {**s3_settings.to_environ(), "PIPPA_S3_SECRET_KEY": "not-the-key"}.items():
        monkeypatch.setenv(name, value)
    code, _, err = pippa(capsys, "runs", "list")
    assert code == 4 and "not-the-key" not in err and "Traceback" not in err


def test_settings_come_from_the_env_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "set-outside")
    (tmp_path / ".env").write_text("WANDB_ENTITY=some-team\nWANDB_PROJECT=in-the-file\n")
    _, out, _ = pippa(capsys, "train", "smoke", "--dry-run")
    assert "some-team/set-outside" in out


def test_a_defect_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(cli, "dispatch", lambda _: 1 / 0)  # pyrefly: ignore [division-by-zero]
    code, _, err = pippa(capsys, "runs")
    assert code == 1 and "ZeroDivisionError" in err and "PIPPA_DEBUG" in err and "Traceback" not in err


class TestDryRun:
    FLAGS = ("--batch-size", "4", "--no-tune-projector", "--dataset-path", "a b's", "c")

    @pytest.mark.parametrize("preset", PRESETS)
    def test_it_touches_nothing(self, capsys, tmp_path, preset):
        assert pippa(capsys, "train", preset, "--dry-run")[0] == 0
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("number", "what"), [("1.7", "this preset trains GR00T N1.5"), ("1.6", "does not support")]
    )
    def test_a_base_model_of_another_generation_is_refused(self, capsys, number, what):
        name = f"nvidia/GR00T-N{number}-3B"
        code, out, err = pippa(capsys, "train", "smoke", "--dry-run", "--base-model-path", name)
        assert code == 2 and out == "" and what in err and "nvidia/GR00T-N1.5-3B" in err

    def test_every_value_has_its_origin(self, capsys):
        _, out, _ = pippa(capsys, "train", "smoke", "--dry-run", *self.FLAGS)
        _, config, provenance = resolve("smoke", self.FLAGS)
        table = out[out.index("argument ") : out.index("The engine's command")]
        rows = {line.split()[0]: line for line in table.splitlines() if line.strip()}
        for name in FinetuneConfig.model_fields:
            assert provenance[name] in rows[name].split(), rows[name]
        assert provenance["batch_size"] == "flag" and provenance["max_steps"] == "preset"
        assert provenance["lora_rank"] == "default"
        for word in (
            "ego_view",
            "tiny (generated)",
            "process",
            "native",
            "your default entity/pippa",
            "the folder",
            "embedded",
        ):
            assert word in out
        assert config.batch_size == 4

    def test_the_command_can_be_pasted(self, capsys):
        _, out, _ = pippa(capsys, "train", "smoke", "--dry-run", *self.FLAGS)
        pasted = out[out.index(shlex.quote(sys.executable)) :]
        # What a shell makes of the text, not what we think it would.
        shown = subprocess.run(
            ["sh", "-c", f'show() {{ for a in "$@"; do printf "%s\\0" "$a"; done; }}; show {pasted}'],
            capture_output=True,
            text=True,
            check=True,
        )
        argv = shown.stdout.split("\0")[:-1]
        assert argv[1:3] == ["-m", "trainer.finetune"]
        assert parse_flags(argv[3:], PRESETS["blog"].config)[0] == resolve("smoke", self.FLAGS)[1]

    def test_the_engines_command_is_the_images(self, capsys, monkeypatch):
        monkeypatch.setenv("PIPPA_FINETUNE_COMMAND", "python scripts/gr00t_finetune.py")
        _, out, _ = pippa(capsys, "train", "blog", "--dry-run")
        assert "\npython scripts/gr00t_finetune.py \\\n  --dataset-path youliangtan/so101-table-cleanup \\\n" in out


def test_light_commands_import_nothing_heavy(tmp_path):
    code = (
        "import sys, json; from flows.cli import main; main(['presets']); main(['train', 'smoke', '--dry-run']);"
        "main(['runs']); print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {"prefect", "torch", "transformers", "pyarrow", "av", "matplotlib", "wandb"}


def test_help_of_train_lists_every_flag(capsys):
    assert cli.main(["train", "smoke", "--help"]) == 0
    out = capsys.readouterr().out
    for name in FinetuneConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in out
    assert Path.cwd().is_dir() and list(Path.cwd().iterdir()) == []


def completions(script: Path, *words: str) -> list[str]:
    """What bash proposes for the last of ``words``."""
    asked = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; COMP_LINE='{' '.join(words)}'"
    call = f'source {script}; {asked}; _shtab_pippa pippa {words[-1]}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_presets_and_flags(capsys, tmp_path):
    code, out, _ = pippa(capsys, "completion", "bash")
    assert code == 0
    (tmp_path / "script").write_text(out)
    assert completions(tmp_path / "script", "pippa", "check") == ["checkpoints"]
    assert completions(tmp_path / "script", "pippa", "checkpoints", "ver") == ["verify"]
    assert completions(tmp_path / "script", "pippa", "train", "low") == ["low-vram"]
    assert completions(tmp_path / "script", "pippa", "train", "blog", "--learn") == ["--learning-rate"]


@pytest.mark.parametrize("words", ["train blog", "checkpoints list", "data push"])
def test_help_fits_80_columns_without_split_words(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([*words.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and "more:" not in lines  # where flags without a group would be
    known = set(" ".join(lines).split())
    if "train" in words:
        assert {"[so100_dualcam]", "--no-tune-diffusion-model", "num_gpus"} <= known
        assert {"data:", "model:", "optimisation:", "machine:", "examples:", "--dry-run", "--upstream-exact,"} <= known


def test_every_list_and_show_prints_json(capsys):
    for words in ("presets", "data", "models", "runs", "checkpoints"):
        code, out, _ = pippa(capsys, words, "--json")
        assert code == 0 and isinstance(json.loads(out), list)
    assert json.loads(pippa(capsys, "presets", "show", "lora", "--json")[1])["config"]["lora_rank"] == 32
    for command in cli.COMMANDS:
        if command.words.endswith((" list", " show")):
            assert "--json" in pippa(capsys, *command.words.split(), "--help")[1], command.words
