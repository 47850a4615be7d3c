"""Upstream's Python modality configs are read, and never run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.config_file import from_text
from trainer.data.n17.embodiments import registered
from trainer.data.n17.upstream_file import main, read_file
from trainer.errors import UsageError

HEAD = '''"""A config."""
from gr00t.configs.data.embodiment_configs import register_modality_config
from gr00t.data.embodiment_tags import EmbodimentTag
from gr00t.data.types import ActionConfig, ActionFormat, ActionRepresentation, ActionType, ModalityConfig
'''
SO100 = (
    HEAD
    + """
so100_config = {
    "video": ModalityConfig(delta_indices=[0], modality_keys=["front", "wrist"]),
    "state": ModalityConfig(delta_indices=[0], modality_keys=["single_arm", "gripper"]),
    "action": ModalityConfig(
        delta_indices=list(range(0, 16)),
        modality_keys=["single_arm", "gripper"],
        action_configs=[
            ActionConfig(
                rep=ActionRepresentation.RELATIVE, type=ActionType.NON_EEF, format=ActionFormat.DEFAULT
            ),
            ActionConfig(
                rep=ActionRepresentation.ABSOLUTE, type=ActionType.NON_EEF, format=ActionFormat.DEFAULT
            ),
        ],
    ),
    "language": ModalityConfig(delta_indices=[0], modality_keys=["annotation.human.task_description"]),
}
register_modality_config(so100_config, embodiment_tag=EmbodimentTag.NEW_EMBODIMENT)
"""
)


def written(folder: Path, text: str, name: str = "so100.py") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_upstreams_example(tmp_path: Path) -> None:
    assert read_file(written(tmp_path, SO100)) == {"new_embodiment": registered()["so100"]}
    assert not list(tmp_path.rglob("__pycache__"))


def test_names_sums_positions_and_poses(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
REST: list = ["gripper_position", "joint_position"]
KEYS = ["eef_9d"] + REST
joints = ActionConfig(ActionRepresentation.RELATIVE, ActionType.NON_EEF)
register_modality_config({
    "video": ModalityConfig([-15, 0], ["exterior_image_1_left", "wrist_image_left"]),
    "state": ModalityConfig([0], KEYS),
    "action": ModalityConfig(
        list(range(40)), KEYS, None, None,
        [
            ActionConfig(ActionRepresentation.RELATIVE, ActionType.EEF, ActionFormat.XYZ_ROT6D, "eef_9d"),
            ActionConfig(ActionRepresentation.ABSOLUTE, ActionType.NON_EEF),
            joints,
        ],
    ),
    "language": ModalityConfig([0], ["annotation.language.language_instruction"]),
})
"""
    )
    want = replace(registered()["oxe_droid_relative_eef_relative_joint"], name="mine")
    assert read_file(written(tmp_path, text, "mine.py")) == {"new_embodiment": want}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("list(range(0, 16))", "make()", r"line \d+: this expression is not read"),
        ("list(range(0, 16))", "[i for i in range(16)]", "this expression is not read"),
        ("list(range(0, 16))", "list(range(10**9))", "this expression is not read"),
        ("list(range(0, 16))", "list(range(1000000000))", "more than 1024 elements"),
        ("list(range(0, 16))", "list(range(0, 16, 0))", r"range\(\) arg 3 must not be zero"),
        ("list(range(0, 16))", "list(range(1, 17))", r"action\.delta_indices is \[1, 2, …, 16\]"),
        ("so100_config = {", "import os\nos.remove('x')\nso100_config = {", "only assignments and register"),
        (
            'modality_keys=["front"',
            'modality_key=["front"',
            r"video\.modality_key: .*; did you mean modality_keys\?",
        ),
        ("EmbodimentTag.NEW_EMBODIMENT", "EmbodimentTag.GR1", "No embodiment tag of GR00T N1.7 is called 'GR1'"),
        ("register_modality_config(so100_config", "print(so100_config", "only assignments and register"),
        ("register_modality_config(so100_config, embodiment_tag=EmbodimentTag.NEW_EMBODIMENT)", "", "registers no"),
        ("so100_config = {", "so100_config = {{", "can't be read as Python"),
    ],
)
def test_what_is_no_literal_is_refused_with_its_line(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in SO100
    with pytest.raises(UsageError, match=problem):
        read_file(written(tmp_path, SO100.replace(old, new)))


def test_the_command_prints_toml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(written(tmp_path, SO100))]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# embodiment tag: new_embodiment\n")
    assert from_text(printed, "printed", toml=True) == registered()["so100"]
    assert main([str(tmp_path / "absent.py")]) == 2 and "There is no file" in capsys.readouterr().err
    assert main([]) == 2


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.py", tmp_path):
        with pytest.raises(UsageError, match=str(path)):
            read_file(path)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abc=[](){}\"'\n,.+-*:0123456789 lambda", max_size=80))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = written(tmp_path_factory.getbasetemp(), text, "fuzzed.py")
    with pytest.raises(UsageError):
        read_file(path)
