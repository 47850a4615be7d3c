"""A data config of one's own, from the command line into run spec, form and job: as data, wherever it is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from prefect.utilities.callables import parameter_schema

from flows.orchestration.ensure_imported import prepare_job
from flows.orchestration.parameters import Overrides, given
from flows.orchestration.train import train
from trainer.config.argv import require_engine_can, resolve, resolve_values
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import RunSpec, WandbSpec
from trainer.data.config_file import as_argument, to_toml
from trainer.data.configs import DATA_CONFIGS, DataConfig, get_data_config
from trainer.errors import UsageError

ARM = replace(DATA_CONFIGS["so100_dualcam"], name="my_arm", video=("wrist", "front"), action_horizon=8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "my_arm.toml"
    file.write_text(to_toml(ARM).replace('name = "my_arm"\n', ""))
    return file


def spec_with(data_config: object) -> RunSpec:
    run_id, ref = "blog-20260102-030405-0123", {"name": "x", "digest": "0" * 64}
    return RunSpec.model_validate(
        {
            "run_id": run_id,
            "preset": "blog",
            "config": {"dataset_path": ["x"], "data_config": data_config},
            "provenance": {},
            "datasets": [{"kind": "dataset", **ref}],
            "base_model": {"kind": "model", **ref},
            "wandb": WandbSpec(entity="e", project="p", name="n", run_id=run_id, group="g").model_dump(),
        }
    )


def test_a_file_is_read_once_and_the_declaration_is_in_the_spec(file: Path) -> None:
    _, config, provenance = resolve("blog", ["--data-config", str(file)])
    file.unlink()
    assert config.data_config == ARM and provenance["data_config"] == "flag"
    spec = spec_with(config.model_dump(mode="json")["data_config"])
    stored = json.loads(spec.model_dump_json())["config"]["data_config"]
    assert stored["name"] == "my_arm" and stored["video"] == ["wrist", "front"] and stored["action_horizon"] == 8
    assert "max_state_dim" not in stored  # a default: another version of pippa may not know it
    assert RunSpec.model_validate_json(spec.model_dump_json()).config.data_config == ARM


def test_a_built_in_one_stays_a_name(tmp_path: Path) -> None:
    assert resolve("blog", [])[1].data_config == "so100_dualcam"
    (tmp_path / "so100.toml").write_text(to_toml(DATA_CONFIGS["so100"]))
    config = resolve("blog", ["--data-config", str(tmp_path / "so100.toml")])[1]
    assert config.data_config == "so100" and spec_with("so100").config.data_config == "so100"
    require_engine_can(config, "isaac-uv")


def test_upstreams_engine_takes_none_but_its_own(file: Path) -> None:
    config = resolve("blog", ["--data-config", str(file)])[1]
    with pytest.raises(UsageError, match="--data-config my_arm: upstream's own data configs are classes"):
        require_engine_can(config, "isaac-conda")


def test_specs_from_before_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They name a Python module, which is looked for when the run continues, and not when the spec is shown."""
    spec = spec_with("arms_of_old:MINE")
    assert spec.config.data_config == "arms_of_old:MINE"
    (tmp_path / "arms_of_old.py").write_text(
        "from dataclasses import replace\nfrom trainer.data.configs import DATA_CONFIGS\n"
        "MINE = replace(DATA_CONFIGS['so100'], name='mine')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert get_data_config(spec.config.data_config).name == "mine"


def test_the_form_in_prefect_takes_a_name_or_the_declaration_as_text(file: Path) -> None:
    schema = parameter_schema(train).model_dump()
    for value, expected in (("so100", "so100"), (as_argument(ARM), ARM)):
        jsonschema.validate({"preset": "blog", "overrides": {"data_config": value}}, schema)
        overrides = given(Overrides.model_validate({"data_config": value}))
        assert resolve_values("blog", overrides)[1].data_config == expected
    assert schema["definitions"]["Overrides"]["properties"]["data_config"]["type"] == "string"


def test_a_job_elsewhere_gets_the_declaration() -> None:
    for config in ("so100", ARM):
        arguments = prepare_job("dataset", "us/pens", "run", config).arguments
        assert get_data_config(arguments[arguments.index("--data-config") + 1]) == get_data_config(config)


def test_what_is_wrong_with_it_is_said_at_once(file: Path) -> None:
    file.write_text("video = 1")
    with pytest.raises(UsageError, match=r"my_arm\.toml: video is 1"):
        resolve("blog", ["--data-config", str(file)])
    with pytest.raises(UsageError, match="Did you mean so100_dualcam"):
        resolve("blog", ["--data-config", "so100_dual"])
    with pytest.raises(UsageError, match=r"data_config: state is missing"):
        FinetuneConfig(dataset_path=["x"], data_config='{"name": "arm"}')


def test_equal_declarations_are_the_same_training(file: Path) -> None:
    one, other = (resolve("blog", ["--data-config", str(file)])[1] for _ in range(2))
    assert one == other and isinstance(one.data_config, DataConfig)
    assert one != resolve("blog", [])[1]
