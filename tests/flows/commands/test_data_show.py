"""``pippa data show``: a folder, a name in the store, what lacks a file, and what is no dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.support.faulty import black, copied, jump
from tests.support.lerobot_v3 import to_v3
from tests.support.so101 import make_so101
from trainer.config.argv import resolve
from trainer.data.synthetic import make_synthetic

DEMO = SHARED / "demo_data/robot_sim.PickNPlace"


@pytest.fixture
def pippa(pippa_here, monkeypatch, tmp_path):
    """Runs ``pippa …`` here, with a folder as its store."""
    monkeypatch.delenv("PIPPA_S3_ENDPOINT", raising=False)
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return pippa_here


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of twelve episodes one begins black, another one jumps."""
    clean = make_synthetic(tmp_path_factory.mktemp("data") / "clean", episodes=12)
    folder = copied(clean, clean.with_name("table"))
    black(folder, 2)
    jump(folder, 7)
    return folder


def test_a_folder_is_shown_in_eighty_columns_and_on_a_page_and_ends_with_the_command(pippa, table, tmp_path):
    copied(table, tmp_path / "table")
    code, out, err = pippa("data", "show", "table")
    assert code == 0 and "Reading table" in err
    lines = out.splitlines()
    command = "  pippa train PRESET --dataset-path ./table --exclude-episodes 2 7"
    assert command in lines and max(len(line) for line in lines if line != command) <= 80
    assert "2 of 12 episodes deserve a look." in out and "ego_view is black in 4 of" in out
    page = tmp_path / "home/data/table.html"
    assert lines[-1] == "✓ home/data/table.html" and "<h2 id=" in page.read_text()
    assert (tmp_path / "table/meta/modality.json").exists() and list((tmp_path / "home/cache/frames").iterdir())
    # The command that it names is one that can be typed, and what it leaves out is gone.
    assert resolve("smoke", command.split()[3:])[1].exclude_episodes == ["2", "7"]
    code, out, _ = pippa("data", "show", "./table", "--exclude-episodes", "2", "7", "--json")
    rest = json.loads(out)
    assert code == 0 and len(rest["episodes"]) == 10 and rest["exclude_episodes"] == []


def test_json_is_the_whole_of_it_and_writes_no_page(pippa, table, tmp_path):
    code, out, _ = pippa("data", "show", str(table), "--json")
    document = json.loads(out)
    assert code == 0 and not (tmp_path / "home/data").exists()
    assert document["exclude_episodes"] == ["2", "7"] and len(document["episodes"]) == 12
    assert {(each["rule"], each["episode"]) for each in document["findings"]} == {
        ("still", None),
        ("blank", 2),
        ("jump", 7),
    }
    joint = document["joints"][0]
    assert joint["key"] == "left_arm" and joint["name"] == "motor_0" and joint["min"] <= joint["mean"] <= joint["max"]


def test_a_dataset_of_the_store_is_shown_by_its_name(pippa, table, tmp_path):
    assert pippa("data", "push", str(table), "--name", "team/table")[0] == 0
    code, out, _ = pippa("data", "show", "team/table")
    assert code == 0 and "--dataset-path team/table --exclude-episodes 2 7" in out
    assert (tmp_path / "home/data/table.html").exists()
    code, _, err = pippa("data", "show", "another")
    assert code == 2 and "no dataset another in the store" in err and "pippa data list" in err


def test_what_it_lacks_is_proposed_and_the_folder_stays_as_it_is(pippa, tmp_path):
    folder = make_so101(tmp_path / "kitchen", ("left", "right"), episodes=3)
    before = sorted(folder.rglob("*"))
    code, out, err = pippa("data", "show", "kitchen")
    assert code == 0 and "as `pippa data init` proposes it" in err and sorted(folder.rglob("*")) == before
    assert "single_arm shoulder_pan.pos" in out and "camera left, 64x48" in out
    assert "Action equal to the state" in out  # these recordings have it
    to_v3(folder, tmp_path / "v3")
    code, again, _ = pippa("data", "show", "v3")
    assert code == 0 and again.split("\n\n")[1:-2] == out.split("\n\n")[1:-2]


def test_a_page_goes_nowhere_where_a_folder_is_and_what_is_no_dataset_is_refused(pippa, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = pippa("data", "show", "empty")
    assert code == 3 and "empty is not a LeRobot dataset" in err
    code, _, err = pippa("data", "show", "empty", "--output", "empty")
    assert code == 2 and "--output empty/dataset.html" in err
    code, _, err = pippa("data", "show", "empty", "--exclude-episodes", "x")
    assert code == 2 and "neither an episode such as 17" in err


@pytest.mark.skipif(not DEMO.is_dir(), reason="the demo dataset is not beside this checkout (../shared/demo_data)")
def test_the_demo_dataset_jumps_where_its_simulation_begins(pippa):
    code, out, _ = pippa("data", "show", str(DEMO), "--json")
    found = json.loads(out)["findings"]
    assert code == 0 and {each["rule"] for each in found} == {"jump", "still", "limit", "far"}
    jump = next(each for each in found if each["rule"] == "jump")
    assert jump["episode"] is None and jump["frames"] == [5, 6] and "4 of 5 episodes" in jump["message"]
