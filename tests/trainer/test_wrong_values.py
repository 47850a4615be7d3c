"""No message is pydantic's own: it says what is wrong, where, and which keys there are."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.wrong_values import first_problem


class Joint(BaseModel):
    model_config = ConfigDict(extra="forbid")
    start: Annotated[int, Field(ge=0, strict=True)]
    kind: Literal["arm", "hand"] = "arm"
    names: Annotated[list[str], Field(min_length=1, max_length=3)] = ["a"]
    angle: Annotated[float, Field(gt=0, lt=4, allow_inf_nan=False)] = 1.0
    label: Annotated[str, Field(min_length=2)] = "ab"
    on: bool = True


class Loose(BaseModel):
    """As a file of others is read, which may hold more."""

    start: int


class Robot(BaseModel):
    model_config = ConfigDict(extra="forbid")
    joints: dict[str, Joint]
    cameras: list[Joint] | None = None


@pytest.mark.parametrize(
    ("joint", "said"),
    [
        ({"strat": 0}, "joints.a.strat: there is no such key; did you mean start?"),
        ({}, "joints.a.start: missing"),
        ({"start": 0, "knd": "arm"}, "joints.a.knd: there is no such key; did you mean kind?"),
        (
            {"start": 0, "x": 1},
            "joints.a.x: there is no such key; there are start, kind, names, angle, label, on",
        ),
        ({"start": -1}, "joints.a.start: -1 must be at least 0"),
        ({"start": "1"}, "joints.a.start: '1' is not a whole number"),
        ({"start": 0, "kind": "hnd"}, "joints.a.kind: 'hnd' is not one of arm, hand; did you mean hand?"),
        ({"start": 0, "names": []}, "joints.a.names: [] must be of at least 1 items"),
        ({"start": 0, "names": "a"}, "joints.a.names: 'a' is not a list"),
        ({"start": 0, "names": ["a", 2]}, "joints.a.names.1: 2 is not a text"),
        ({"start": 0, "angle": float("nan")}, "joints.a.angle: nan is not a number"),
        ({"start": 0, "angle": 4}, "joints.a.angle: 4 must be less than 4"),
        ({"start": 0, "label": "a"}, "joints.a.label: 'a' must be of at least 2 characters"),
        ({"start": 0, "on": "perhaps"}, "joints.a.on: 'perhaps' is not true or false"),
        (3, "joints.a: 3 is not an object with keys and values"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(joint, said):
    with pytest.raises(ValidationError) as caught:
        Robot.model_validate({"joints": {"a": joint}})
    assert said in first_problem(caught.value, Robot)


def test_a_misspelled_key_is_named_where_others_are_passed_over():
    with pytest.raises(ValidationError) as caught:
        Loose.model_validate({"strat": 1, "more": 2})
    assert first_problem(caught.value, Loose) == "start: missing (there is strat)"


def test_keys_are_known_in_lists_that_may_be_left_out():
    with pytest.raises(ValidationError) as caught:
        Robot.model_validate({"joints": {}, "cameras": [{"start": 1, "labell": "front"}]})
    assert first_problem(caught.value, Robot) == "cameras.0.labell: there is no such key; did you mean label?"
