"""Presets of the user's own: read, refused with the key, and as good as the built-in ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows import cli
from trainer.config.argv import resolve
from trainer.config.preset_files import read_preset, read_presets
from trainer.config.presets import PRESETS, all_presets, get_preset
from trainer.errors import UsageError

KITCHEN = """
[presets.kitchen]
summary = "The kitchen arm."
from = "blog"
wandb_tags = ["kitchen"]

[presets.kitchen.arguments]
dataset_path = ["team/kitchen"]
max_steps = 5000
learning_rate = { value = 5e-5, reason = "1e-4 forgot the grasp" }
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("PIPPA_PRESETS", "PIPPA_HOME", "PIPPA_S3_ENDPOINT", "PREFECT_API_URL", "PIPPA_BASE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_preset_takes_what_it_does_not_set_from_another(here: Path) -> None:
    (here / "pippa.toml").write_text(KITCHEN)
    kitchen = get_preset("kitchen")
    blog = PRESETS["blog"].config
    changes = {"dataset_path": ["team/kitchen"], "max_steps": 5000, "learning_rate": 5e-5}
    assert kitchen.config == blog.model_copy(update=changes)
    assert kitchen.reason("learning_rate") == "1e-4 forgot the grasp" and kitchen.reason("max_steps")
    assert kitchen.environment == "conda" and kitchen.wandb_tags == ("kitchen",)
    assert list(all_presets()) == [*PRESETS, "kitchen"]
    assert resolve("kitchen", ["--max-steps", "7"])[1].max_steps == 7


def test_it_is_listed_compared_and_trained_like_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pippa.toml").write_text(KITCHEN)
    assert cli.main(["presets"]) == 0 and "The kitchen arm." in capsys.readouterr().out
    assert cli.main(["presets", "compare", "blog", "kitchen"]) == 0
    capsys.readouterr()
    assert cli.main(["presets", "show", "kitchen", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["max_steps"] == 5000
    assert cli.main(["train", "kitchen", "--dry-run", "--name", "v2"]) == 0
    out = " ".join(capsys.readouterr().out.split())  # lines break where the path of this folder has them break
    assert "kitchen: The kitchen arm." in out and "1e-4 forgot the grasp" in out


def test_a_file_for_one_training_needs_no_table_and_no_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "gentle.toml").write_text('[arguments]\ndataset_path = ["team/kitchen"]\nmax_steps = 11\n')
    assert read_preset(here / "gentle.toml", PRESETS).name == "gentle"
    assert cli.main(["train", "--preset", "gentle.toml", "--dry-run"]) == 0
    assert "gentle: " in capsys.readouterr().out
    assert cli.main(["train", "smoke", "--preset", "gentle.toml"]) == 2
    assert cli.main(["train", "--preset", "absent.toml"]) == 2
    assert "there is no file absent.toml" in capsys.readouterr().err


def test_a_data_config_beside_the_file_is_found_from_anywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "team").mkdir()
    (here / "team" / "arm.toml").write_text("")
    (here / "team" / "p.toml").write_text('[arguments]\ndataset_path = ["x"]\ndata_config = "arm.toml"\n')
    assert read_preset(here / "team" / "p.toml", PRESETS).values["data_config"] == str(here / "team" / "arm.toml")


def test_everything_wrong_in_a_file_is_said_with_its_key(here: Path) -> None:
    file = here / "pippa.toml"
    file.write_text(
        '[presets.blog.arguments]\nmax_steps = 1\n[presets."My arm".arguments]\nmax_steps = 1\n'
        '[presets.a]\nfrom = "blogg"\nsumary = "x"\nenvironment = "pip"\n'
        '[presets.a.arguments]\nbatch_size = 0\nlearning_rat = 1e-4\nreport_to = "wanbd"\n[presets.b]\n'
    )
    with pytest.raises(UsageError) as error:
        read_presets(file, PRESETS)
    for said in (
        "presets.blog: a built-in preset has this name",
        "'My arm' can't be a preset's name",
        "presets.a.from: there is no preset 'blogg'. Did you mean blog?",
        "presets.a.sumary: there is no such key. Did you mean summary?",
        "presets.a.environment: 'pip' is not one of",
        "presets.a.arguments: --batch-size: 0 must be at least 1",
        "presets.a.arguments: --learning-rat: there is no such flag. Did you mean --learning-rate?",
        "presets.a.arguments: --report-to: 'wanbd' is not one of wandb, tensorboard, azure_ml. Did you mean wandb?",
        "presets.b.arguments is missing",
    ):
        assert said in error.value.message
    file.write_text("presets = 3")
    with pytest.raises(UsageError, match=r"\[presets.NAME\]"):
        read_presets(file, PRESETS)
    file.write_text("no toml")
    with pytest.raises(UsageError, match="can't be read as TOML"):
        all_presets()


def test_the_setting_names_another_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "team.toml").write_text(KITCHEN)
    monkeypatch.setenv("PIPPA_PRESETS", str(here / "team.toml"))
    assert "kitchen" in all_presets()
    monkeypatch.setenv("PIPPA_PRESETS", "gone.toml")
    with pytest.raises(UsageError, match="there is no file"):
        all_presets()


def test_without_a_preset_upstreams_defaults_are_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--dataset-path", "team/kitchen", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "default: Upstream's defaults" in out and "10000" in out


@pytest.mark.parametrize(
    ("name", "says"), [("My Arm", "such as my-arm"), ("smoke", "a preset has this name"), ("x" * 61, "up to 60")]
)
def test_a_name_that_can_not_be_one_is_refused(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "smoke", "--name", name, "--dry-run"]) == 2
    assert says in capsys.readouterr().err
