from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.lerobot_v3 import to_v3
from tests.support.so101 import make_so101
from trainer.data.config_file import to_json
from trainer.data.configs import DATA_CONFIGS
from trainer.importers.origin import origin_text


@pytest.fixture
def pippa(pippa_here, s3_settings, monkeypatch, tmp_path):
    """Runs ``pippa …`` here, with a separate bucket."""
    for name, value in {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home"), "COLUMNS": "250"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return pippa_here


def test_a_dataset_from_anywhere_to_the_store_and_back(pippa, tmp_path, object_store):
    folder = make_so101(tmp_path / "table", episodes=1)
    for file in folder.rglob("*.*"):
        if file.is_file():
            object_store.write_bytes(f"lake/so101/{file.relative_to(folder)}", file.read_bytes())
    address = f"s3://{object_store.settings.bucket}/lake/so101"
    code, out, err = pippa("data", "add", address, "--data-config", "so100_dualcam", "--name", "team/table")
    assert code == 0 and "--dataset-path team/table" in out and "Downloading" in err
    code, out, _ = pippa("data", "push", "table", "--name", "by-hand")
    assert code == 0
    code, out, _ = pippa("data", "list")
    lines = {line.split("@")[0]: line for line in out.splitlines()[1:]}
    assert f"{address} at {object_store.settings.endpoint} @ " in lines["team/table"]
    assert f"folder {folder}; meta/modality.json added" in lines["by-hand"]
    code, *_ = pippa("data", "pull", "team/table", "back")
    assert code == 0 and (tmp_path / "back/meta/modality.json").is_file()
    assert not (folder / "meta/modality.json").exists()
    (tmp_path / "mine.json").write_text(to_json(replace(DATA_CONFIGS["so100_dualcam"], name="mine")))
    code, out, _ = pippa("data", "check", "back", "--data-config", "mine.json")
    assert code == 0 and "can be trained on with mine" in out
    code, _, err = pippa("data", "check", "back", "--data-config", "mine.jsn")
    assert code == 2 and "Did you mean mine.json?" in err
    code, out, _ = pippa("data", "check", "table", "--data-config", "so100_dualcam")
    assert code == 0 and "meta/modality.json added on import" in out


def test_a_dataset_that_nothing_fits_is_proposed_what_it_lacks(pippa, tmp_path):
    folder = make_so101(tmp_path / "kitchen", ("left", "right"), episodes=1)
    modality, declaration = folder / "meta/modality.json", tmp_path / "kitchen.toml"
    code, out, err = pippa("data", "check", "kitchen")
    assert code == 3 and "`pippa data init kitchen`" in err and "1 episode · 12 frames · 0.4 s" in out
    code, out, _ = pippa("data", "init", "kitchen")  # no terminal, no --yes
    assert code == 0 and "pippa data init ./kitchen --yes" in out and '"single_arm"' in out
    assert not modality.exists() and not declaration.exists()

    declaration.write_text("something = 1\n")
    code, _, err = pippa("data", "init", "kitchen", "--yes")
    assert code == 2 and "not overwritten" in err and "--output" in err
    assert declaration.read_text() == "something = 1\n" and not modality.exists()

    code, out, _ = pippa("data", "init", "kitchen", "--yes", "--output", "mine.toml")
    assert code == 0 and "pippa data check ./kitchen --data-config mine.toml" in out
    written = modality.read_bytes()
    code, out, _ = pippa("data", "check", "kitchen")
    assert code == 0 and "can be trained on with mine" in out
    assert "cameras: observation.images.left 64x48, observation.images.right 64x48" in out
    assert "tasks: Grab pens and place into pen holder." in out
    code, out, _ = pippa("data", "init", "kitchen", "--output", "mine.toml")
    assert code == 0 and "Nothing is missing" in out and modality.read_bytes() == written


def test_a_known_arm_needs_no_data_config_in_either_layout(pippa, tmp_path):
    v2 = make_so101(tmp_path / "v2")
    to_v3(v2, tmp_path / "v3")
    for name in ("v2", "v3"):
        code, out, _ = pippa("data", "check", name)
        assert code == 0 and "can be trained on with so100_dualcam" in out and "2 episodes · 24 frames" in out


def test_base_models_are_listed_with_where_they_came_from(pippa, tmp_path):
    assert "pippa models add nvidia/GR00T-N1.5-3B" in pippa("models")[1]
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm/config.json").write_text("{}")
    code, out, _ = pippa("models", "add", "./arm")
    assert code == 0 and "--base-model-path arm" in out
    assert f"folder {tmp_path / 'arm'}" in pippa("models", "list")[1]


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("data", "add", "absent"), 2, "pippa data push PATH --name NAME"),
        (("data", "add", "git+https://user:hunter2@host/x"), 2, "holds credentials"),
        (("data", "add", "./absent"), 2, "There is no folder ./absent"),
        (("models", "add", "absent"), 2, "pippa models add"),
    ],
)
def test_what_can_not_be_brought(pippa, argv, code, says):
    found, _, err = pippa(*argv)
    assert found == code and says in err and "hunter2" not in err


def test_origins_read_well():
    git = {"git": "https://host/x", "path": "demo/a", "ref": "main", "revision": "c0ffee" * 6}
    assert origin_text(git) == "git https://host/x @ main (c0ffeec0ffee) demo/a"
    hub = {"hub": "owner/name", "revision": "c0ffee" * 6, "modality": "added", "converted": "LeRobot v3.0"}
    assert origin_text(hub) == (
        "Hugging Face hub owner/name @ c0ffeec0ffee; converted from LeRobot v3.0; meta/modality.json added"
    )
    assert origin_text({"hub": "o/n", "license": "A License"}) == "Hugging Face hub o/n; A License"
    assert origin_text({"generator": "x", "generator_sha256": "y"}) == "generated"
    assert origin_text({}) == ""
