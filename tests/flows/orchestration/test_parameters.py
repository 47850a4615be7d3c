"""The form of a deployment: every argument, none required, said once."""

from __future__ import annotations

import jsonschema
import pytest
from prefect.utilities.callables import parameter_schema

from flows.orchestration.parameters import Overrides, as_form, described, given
from flows.orchestration.train import train
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.generations import ALL_FIELDS
from trainer.config.n17_config import N17Config
from trainer.config.presets import PRESETS


@pytest.fixture(scope="module")
def schema() -> dict:
    return parameter_schema(train).model_dump()


@pytest.fixture(scope="module")
def fields(schema) -> dict:
    return schema["definitions"]["Overrides"]["properties"]


def test_presets_launchers_and_engines_are_choices(schema):
    properties = schema["properties"]
    assert properties["preset"]["enum"] == [*PRESETS, "default"] and schema["required"] == ["preset"]
    assert set(properties["launcher"]["enum"]) == {"process", "docker"}
    assert properties["engine"]["enum"] == ["native", "isaac-uv", "isaac-conda", "isaac-n17"]
    assert all(properties[name].get("description") for name in properties)


def test_every_argument_is_there_with_its_help_and_its_limits(schema, fields):
    assert list(fields) == list(ALL_FIELDS)
    helps = {name: field.description for name, field in {**N17Config.fields(), **FinetuneConfig.fields()}.items()}
    assert {name: field["description"] for name, field in fields.items()} == helps
    assert fields["batch_size"]["minimum"] == 1 and fields["learning_rate"]["exclusiveMinimum"] == 0
    assert fields["report_to"]["enum"] == ["wandb", "tensorboard", "azure_ml"]
    assert {"gr1", "libero_sim"} < set(fields["embodiment_tag"]["enum"])
    # A form with a null in every field asks for each whether it is there.
    assert not any("anyOf" in field for field in fields.values())
    assert {field["default"] for field in fields.values() if "default" in field} == {"preset"}
    assert "required" not in schema["definitions"]["Overrides"]


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"batch_size": "many"}, {"batchsize": 1}, {"video_backend": "vlc"}, {"lora_dropout": 1}],
)
def test_the_schema_refuses_what_the_flow_would(schema, wrong):
    jsonschema.validate({"preset": "smoke", "overrides": {"batch_size": 2}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"preset": "smoke", "overrides": wrong}, schema)


def test_the_form_of_a_preset_says_what_it_has(schema):
    form = described(schema, PRESETS["blog"])["definitions"]["Overrides"]["properties"]
    assert form["batch_size"]["description"].endswith("In blog: 32.")
    assert form["dataset_path"]["description"].endswith("In blog: youliangtan/so101-table-cleanup.")
    assert form["exclude_episodes"]["description"].endswith("In blog: none.")
    assert "global_batch_size" not in form
    newer = described(schema, PRESETS["so101-n17"])["definitions"]["Overrides"]["properties"]
    assert "batch_size" not in newer and newer["global_batch_size"]["description"].endswith("In so101-n17: 32.")
    # The next preset's form starts from the schema as it was.
    assert "blog" not in schema["definitions"]["Overrides"]["properties"]["batch_size"]["description"]


def test_what_is_on_or_off_is_a_choice_that_begins_as_the_preset(schema, fields):
    switches = {name for name, field in ALL_FIELDS.items() if field.annotation is bool}
    assert {name for name, field in fields.items() if "default" in field} == switches
    assert all(fields[name]["enum"] == ["preset", "yes", "no"] for name in switches)
    form = described(schema, PRESETS["blog"])["definitions"]["Overrides"]["properties"]
    assert form["tune_projector"]["description"].endswith("In blog: yes.")
    left_alone = dict.fromkeys(switches, "preset")
    assert given({**left_alone, "tune_llm": "yes", "tune_projector": "no"}) == {
        "tune_llm": True,
        "tune_projector": False,
    }
    # As a schedule of an earlier version has it, and as the command line submits it.
    assert given({"tune_llm": True}) == {"tune_llm": True} == given(as_form({"tune_llm": True}))
    jsonschema.validate({"preset": "smoke", "overrides": as_form({"tune_llm": False, "batch_size": 2})}, schema)


def test_only_what_was_given_counts():
    assert given(None) == given({}) == given(Overrides()) == {}
    assert given({"batch_size": 2, "max_steps": None}) == {"batch_size": 2}
    assert given(Overrides.model_validate({"batch_size": 2})) == {"batch_size": 2}
