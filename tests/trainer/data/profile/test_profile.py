"""What deserves a look: each rule on a dataset with its fault in one episode, and on one without any."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.faulty import FAULTS, change_frames, change_table, copied, joint
from tests.support.lerobot_v3 import to_v3
from trainer.data.profile import motion, pictures, rules
from trainer.data.profile.collect import collapsed, profile
from trainer.data.profile.model import Finding, Profile
from trainer.data.profile.rules import RULES
from trainer.data.synthetic import CAMERA, make_synthetic
from trainer.errors import DatasetError, UsageError

EPISODES = 24
FAULTY = {rule: 2 * place + 1 for place, rule in enumerate(FAULTS)}
"""The episode of each fault: every second one; the others are clean."""
FOLLOWS = {
    "still": {"limit", "far"},  # a sensor that is off: the action continues without it
    "length": {"still", "far"},
    "idle": {"frozen", "far"},
    "limit": {"far"},
}
"""What else is true of an episode with a fault."""


def shown(folder: Path, exclude: tuple[str, ...] = ()) -> Profile:
    return profile(folder, folder.name, lambda _done, _of: None, exclude)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPPA_HOME", str(home))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_synthetic(tmp_path_factory.mktemp("data") / "clean", episodes=EPISODES)


@pytest.fixture(scope="module")
def faulty(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(clean, tmp_path_factory.mktemp("data") / "faulty")
    for rule, fault in FAULTS.items():
        fault(folder, FAULTY[rule])
    return folder


@pytest.fixture(scope="module")
def found(faulty: Path, home: Path) -> Profile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPPA_HOME", str(home))
        return shown(faulty)


def test_every_rule_has_its_fault():
    assert list(FAULTS) == [rule.name for rule in RULES]
    assert all(rule.fires and rule.why and not rule.fires.endswith(".") for rule in RULES)


@pytest.mark.parametrize("rule", FAULTS)
def test_a_rule_finds_its_fault_in_the_episode_that_has_it(found: Profile, rule: str):
    here = [each for each in found.findings if each.rule == rule and each.episode == FAULTY[rule]]
    assert len(here) == 1 and any(character.isdigit() for character in here[0].message)
    others = {each.rule for each in found.findings if each.episode == FAULTY[rule]} - {rule}
    assert others <= FOLLOWS.get(rule, set())


def test_an_episode_without_a_fault_is_never_found(found: Profile):
    assert {each.episode for each in found.findings if each.episode is not None} == set(FAULTY.values())


def test_figures_and_frames_are_those_of_the_fault(found: Profile):
    by_rule: dict[str, Finding] = {}
    for each in found.findings:
        if each.episode == FAULTY[each.rule]:
            by_rule[each.rule] = each
    assert by_rule["frozen"].frames == (15, 45) and by_rule["frozen"].subject == "ego_view"
    assert by_rule["frozen"].figures["seconds"] == pytest.approx(31 / 20)
    assert by_rule["blank"].frames == (0, 3) and by_rule["blank"].figures["frames"] == 4
    assert by_rule["jump"].frames in ((29, 30), (30, 31)) and by_rule["jump"].subject == "right_arm motor_23"
    assert by_rule["lag"].figures["rows"] == -4 and by_rule["lag"].figures["usual rows"] == 1
    assert by_rule["idle"].figures["seconds"] == pytest.approx(3.0, abs=0.3)
    assert by_rule["length"].figures["frames"] == 20
    assert "right_arm motor_25 (state only)" in by_rule["still"].message
    assert by_rule["limit"].subject == "right_arm motor_25"
    assert by_rule["far"].subject == "right_arm motor_23"
    assert "episode 0" in by_rule["twice"].message
    assert len(by_rule["frozen"].stills) == 4 and by_rule["frozen"].stills[0].webp.startswith(b"RIFF")
    assert by_rule["jump"].series is not None and len(by_rule["jump"].series.state) > 60


def test_a_clean_dataset_has_nothing_but_joints_that_it_never_uses(clean: Path):
    found = shown(clean)
    assert [(each.rule, each.episode) for each in found.findings] == [("still", None)]
    assert "neck" in found.findings[0].message and found.exclusion == []
    assert len(found.episodes) == EPISODES and found.frames == sum(each.frames for each in found.episodes)
    assert found.hours == pytest.approx(found.frames / 20 / 3600)
    (camera,) = found.cameras
    assert (camera.key, camera.width, camera.height, len(camera.stills)) == ("ego_view", 256, 256, 6)
    assert sum(task.episodes for task in found.tasks) == EPISODES
    moving = next(each for each in found.joints if each.kind == "state" and each.name == "motor_22")
    assert moving.key == "right_arm" and moving.min <= moving.q01 < moving.mean < moving.q99 <= moving.max


def test_what_is_worth_leaving_out_can_be_left_out(faulty: Path, found: Profile):
    harmless = {FAULTY[rule.name] for rule in RULES if not rule.excludes}
    assert set(found.suspects) >= set(FAULTY.values()) - harmless
    rest = shown(faulty, tuple(found.exclusion))
    assert rest.suspects == [] and len(rest.episodes) == EPISODES - len(found.suspects)
    with pytest.raises(UsageError, match="no episode 99"):
        shown(faulty, ("99",))


def test_what_most_episodes_have_is_told_once_and_is_no_reason_to_leave_them_out():
    each = [Finding(rule="jump", episode=number, subject=str(number), message="jumps") for number in range(6)]
    (told,) = collapsed(each, 8)
    assert told.episode is None and told.message == "in 6 of 8 episodes; in episode 0: jumps"
    assert collapsed(each[:4], 8) == each[:4]
    assert len(collapsed(each[:2], 2)) == 1 and len(collapsed(each[:1], 1)) == 1


def test_in_lerobot_v3_each_rule_finds_the_same(faulty: Path, clean: Path, tmp_path: Path):
    """Several episodes in a table and in a video; what can't be read lies in its own files."""
    damaged = FAULTY["unreadable"]
    readable = copied(faulty, tmp_path / "readable")
    for file in ("data/chunk-000/episode_{:06d}.parquet", f"videos/chunk-000/{CAMERA}/episode_{{:06d}}.mp4"):
        (readable / file.format(damaged)).write_bytes((clean / file.format(damaged)).read_bytes())
    there = told(shown(to_v3(readable, tmp_path / "v3", per_file=7)))
    assert there == told(shown(readable)) and {each[0] for each in there} == set(FAULTS) - {"unreadable"}

    alone = to_v3(readable, tmp_path / "alone", per_file=1)
    (alone / f"videos/{CAMERA}/chunk-000/file-{damaged:03d}.mp4").write_bytes(b"no video")
    assert [each[:2] for each in told(shown(alone)) if each[0] == "unreadable"] == [("unreadable", damaged)]


def told(found: Profile) -> list[tuple[str, int | None, str, str]]:
    return [(each.rule, each.episode, each.subject, each.message) for each in found.findings]


def test_what_was_seen_of_a_video_is_not_looked_at_again(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = copied(clean, tmp_path / "again")
    first, looked = shown(folder), pictures._looked
    seen = []
    monkeypatch.setattr(pictures, "_looked", lambda *given: seen.append(given[1]) or looked(*given))
    assert told(shown(folder)) == told(first) and not seen
    change_frames(folder, 3, lambda frames: frames[::-1].copy())
    shown(folder)
    assert [each.name for each in seen] == ["episode_000003.mp4"]


def test_a_dataset_that_can_not_be_read_at_all_is_refused_in_words(clean: Path, tmp_path: Path):
    folder = copied(clean, tmp_path / "gone")
    for table in (folder / "data").rglob("*.parquet"):
        table.unlink()
    with pytest.raises(DatasetError, match="no episode can be read: data/"):
        shown(folder)


def test_a_video_that_breaks_off_is_a_finding_and_the_rest_is_shown(clean: Path, tmp_path: Path):
    folder = copied(clean, tmp_path / "broken")
    video = next((folder / "videos").rglob("episode_000002.mp4"))
    content = bytearray(video.read_bytes())
    start = content.index(b"mdat")
    content[start + 2000 : start + 6000] = bytes(4000)
    video.write_bytes(content)
    (folder / "videos/chunk-000/observation.images.ego_view/episode_000005.mp4").unlink()
    found = shown(folder)
    assert {5} <= {each.episode for each in found.findings if each.rule == "unreadable"} <= {2, 5}
    assert found.cameras[0].stills


def test_values_that_are_no_numbers_are_told_and_harm_no_figure(clean: Path, tmp_path: Path):
    folder = copied(clean, tmp_path / "nan")

    def change(table: dict[str, np.ndarray]) -> None:
        table["observation.state"][7, joint("right_arm", 0)] = np.nan

    change_table(folder, 4, change)
    found = shown(folder)
    assert [each.episode for each in found.findings if each.rule == "unreadable"] == [4]
    assert all(np.isfinite([each.min, each.mean, each.max]).all() for each in found.joints)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(1, 12))
def test_rolling_ranges_are_those_of_each_window(values, window):
    if window > len(values):
        return
    array = np.array(values)
    expected = [np.ptp(array[start : start + window]) for start in range(len(values) - window + 1)]
    assert motion.rolling_range(array, window).tolist() == expected


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 6))
def test_stretches_cover_the_rows_of_their_windows(windows, window):
    covered = {row for start, quiet in enumerate(windows) if quiet for row in range(start, start + window)}
    found = motion.stretches(np.array(windows, dtype=bool), window)
    assert {row for first, last in found for row in range(first, last + 1)} == covered
    assert all(after[0] > before[1] + 1 for before, after in pairwise(found))


def test_thresholds_are_in_the_sentences_that_people_read():
    told = {rule.name: rule.fires for rule in RULES}
    assert f"{rules.IDLE_SECONDS:g} s" in told["idle"] and f"{rules.FROZEN_MOVE:.0%}" in told["frozen"]
