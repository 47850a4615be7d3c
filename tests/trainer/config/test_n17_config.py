"""The arguments of N1.7: upstream's flags in its form, told apart from N1.5's, and carried through spec and engine."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from trainer.config import generations
from trainer.config.argv import base_model_in, parse_flags, resolve, resolve_values, to_argv
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.generations import AnyConfig
from trainer.config.n17_config import N17Config, N17Tag
from trainer.config.preset_files import read_presets
from trainer.config.presets import PRESETS
from trainer.config.run_spec import RunSpec, SnapshotRef, WandbSpec
from trainer.data.n17.embodiments import PROJECTOR_INDEX, registered
from trainer.errors import UsageError
from trainer.generation import N17
from trainer.runner.placement import placed

BLANK = N17Config(dataset_path=["…"])
ANY = TypeAdapter(AnyConfig)

UPSTREAM_FILE = """
from gr00t.configs.data.embodiment_configs import register_modality_config
config = {
    "video": ModalityConfig(delta_indices=[0], modality_keys=["front"]),
    "state": ModalityConfig(delta_indices=[0], modality_keys=["arm"]),
    "action": ModalityConfig(
        delta_indices=list(range(20)), modality_keys=["arm"],
        action_configs=[ActionConfig(rep=ActionRepresentation.RELATIVE, type=ActionType.NON_EEF)],
    ),
    "language": ModalityConfig(delta_indices=[0], modality_keys=["annotation.human.task_description"]),
}
register_modality_config(config, embodiment_tag=EmbodimentTag.NEW_EMBODIMENT)
"""

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0:"), min_size=1).filter(
    lambda text: not text.startswith("-")
)
configs = st.builds(
    N17Config,
    dataset_path=st.lists(texts, min_size=1, max_size=3),
    output_dir=texts,
    base_model_path=texts,
    data_config=st.sampled_from(list(registered().values())),
    embodiment_tag=st.sampled_from(get_args(N17Tag)),
    global_batch_size=st.integers(1, 1000).map(lambda each: 8 * each),
    num_gpus=st.sampled_from([1, 2, 8]),
    learning_rate=st.floats(0, 1, exclude_min=True),
    state_dropout_prob=st.floats(0, 1),
    random_rotation_angle=st.none() | st.integers(0, 180),
    color_jitter_params=st.none()
    | st.dictionaries(st.sampled_from(["brightness", "hue"]), st.floats(0, 1), min_size=1),
    use_wandb=st.booleans(),
    tune_llm=st.booleans(),
    lora_rank=st.integers(0, 64),
)


@given(configs)
@settings(deadline=None)
def test_flags_and_a_spec_carry_every_configuration_back(config: N17Config) -> None:
    assert parse_flags(to_argv(config), BLANK)[0] == config
    assert ANY.validate_json(ANY.dump_json(config)) == config


def test_a_stored_configuration_is_of_its_generation() -> None:
    for name in ("smoke", "smoke-n17"):
        config = PRESETS[name].config
        assert type(ANY.validate_json(ANY.dump_json(config))) is type(config) is PRESETS[name].kind


def test_the_tags_are_upstreams_by_name_or_value_in_any_case() -> None:
    assert set(get_args(N17Tag)) == set(PROJECTOR_INDEX)
    for written in ("LIBERO_PANDA", "libero_panda", "Libero_Sim"):
        _, config, _ = resolve("libero-n17", ["--embodiment-tag", written])
        assert config.embodiment_tag == "libero_sim" and config.data_config == registered()["libero_sim"]


def test_datasets_are_joined_as_upstream_joins_them_but_addresses_stay_whole() -> None:
    argv = ["--dataset-path", "a:s3://bucket/b:git+https://host/r@x#f"]
    _, config, _ = resolve("so101-n17", argv)
    assert config.dataset_path == ["a", "s3://bucket/b", "git+https://host/r@x#f"]
    assert resolve("so101-n17", ["--dataset-path", "a", "b"])[1].dataset_path == ["a", "b"]


def test_upstreams_file_takes_the_place_of_the_presets_data_config(tmp_path: Path) -> None:
    file = tmp_path / "my_arm.py"
    file.write_text(UPSTREAM_FILE)
    preset, config, provenance = resolve("so101-n17", ["--modality-config-path", str(file)])
    file.unlink()
    assert preset.name == "so101-n17" and provenance["modality_config_path"] == "flag"
    assert getattr(config.data_config, "video", ()) == ("front",) and str(config.data_config) == "my_arm"
    # What the engine gets needs no file.
    assert "--modality-config-path" not in to_argv(config)
    assert parse_flags(to_argv(config), BLANK)[0].data_config == config.data_config


def test_without_a_preset_the_base_model_decides() -> None:
    argv = ["--base_model_path=nvidia/GR00T-N1.7-3B", "--dataset-path", "a", "--embodiment-tag", "LIBERO_PANDA"]
    assert base_model_in(argv) == "nvidia/GR00T-N1.7-3B"
    _, config, provenance = resolve("default", argv)
    assert isinstance(config, N17Config) and config.global_batch_size == 64 and not config.use_wandb
    assert "batch_size" not in provenance
    assert type(resolve("default", ["--dataset-path", "a"])[1]) is FinetuneConfig
    with pytest.raises(UsageError, match=r"GR00T N1\.6, which pippa does not support"):
        resolve("default", ["--base-model-path", "nvidia/GR00T-N1.6-3B", "--dataset-path", "a"])


def test_the_setting_for_the_base_model_is_for_presets_of_its_generation() -> None:
    environ = {"PIPPA_BASE_MODEL": "tiny"}
    assert resolve_values("so101-n17", {}, environ=environ)[1].base_model_path == "nvidia/GR00T-N1.7-3B"
    environ = {"PIPPA_BASE_MODEL": "tiny-n17"}
    assert resolve_values("so101-n17", {}, environ=environ)[1].base_model_path == "tiny-n17"
    assert resolve_values("blog", {}, environ=environ)[1].base_model_path == "nvidia/GR00T-N1.5-3B"


@pytest.mark.parametrize(
    ("preset", "argv", "says"),
    [
        ("so101-n17", "--batch-size 4", "--batch-size is a flag of GR00T N1.5: GR00T N1.7 has --global-batch-size"),
        ("so101-n17", "--report-to wandb", "GR00T N1.7 has --use-wandb"),
        ("so101-n17", "--video-backend decord", "leave it out"),
        ("blog", "--global-batch-size 4", "--global-batch-size is a flag of GR00T N1.7: GR00T N1.5 has --batch-size"),
        ("blog", "--modality-config-path a.py", "GR00T N1.5 has --data-config"),
        ("so101-n17", "--global-batch-size 9 --num-gpus 2", "9 can't be divided by --num-gpus 2"),
        ("so101-n17", "--color-jitter-params brightness 0.3 contrast", "name each amount"),
        ("so101-n17", "--color-jitter-params bright 0.3", "'bright' is not one of brightness, contrast"),
        ("so101-n17", "--embodiment-tag LIBERO", "Did you mean libero_sim?"),
        ("so101-n17", "--modality-config-path absent.py", "There is no file absent.py"),
        ("so101-n17", "--modality-config-path arm.toml", "--data-config's"),
        ("so101-n17", "--data-config so100 --modality-config-path a.py", "leave one of them out"),
        ("so101-n17", "--extra-augmentation-config {}", "upstream ignores it"),
        ("so101-n17", "--save-only-model", "can't be continued"),
        ("so101-n17", "--skip-weight-loading", "tiny-n17"),
        ("libero-n17", "--embodiment-tag new_embodiment", "--embodiment-tag new_embodiment has no data config"),
    ],
)
def test_what_is_wrong_is_named_with_the_right_form(preset: str, argv: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(preset, argv.split())
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("batch_size", 4, "global-batch-size"), ("report_to", "wandb", "use-wandb"), ("video_backend", "torchcodec", "")],
)
def test_what_other_arguments_decide_is_refused_from_python_too(name: str, value: object, says: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} can't be set: .*{says}"):
        N17Config.model_validate({"dataset_path": ["a"], name: value})
    two = N17Config(dataset_path=["a"], global_batch_size=8, num_gpus=2)
    assert N17Config.model_validate({**two.model_dump(), "batch_size": 4}) == two
    assert N17Config.model_validate({**two.model_dump(), "num_gpus": 4}).batch_size == 2


def test_the_experiments_name_is_a_folder() -> None:
    _, config, provenance = resolve("so101-n17", ["--experiment-name", "first"])
    assert config.output_dir == "so101-n17-checkpoints/first" and provenance["output_dir"] == "flag"


def test_a_preset_of_ones_own_has_the_arguments_of_its_base_model(tmp_path: Path) -> None:
    file = tmp_path / "pippa.toml"
    file.write_text('[presets.mine]\nfrom = "blog-n17"\narguments = { global_batch_size = 8 }\n')
    mine = read_presets(file, PRESETS)["mine"]
    assert isinstance(mine.config, N17Config) and mine.config.batch_size == 8
    file.write_text('[presets.mine]\nfrom = "blog-n17"\narguments = { batch_size = 8 }\n')
    with pytest.raises(UsageError, match=r"presets\.mine\.arguments: --batch-size is a flag of GR00T N1\.5"):
        read_presets(file, PRESETS)


def test_a_run_that_goes_on_with_fewer_gpus_accumulates_more() -> None:
    config = PRESETS["libero-n17"].config
    run_id = "libero-n17-20260102-030405-0123"
    spec = RunSpec(
        run_id=run_id,
        preset="libero-n17",
        config=config,
        provenance={},
        datasets=[SnapshotRef(kind="dataset", name="x", digest="0" * 64)],
        base_model=SnapshotRef(kind="model", name="x", digest="0" * 64),
        wandb=WandbSpec(entity="e", project="p", name="n", run_id=run_id, group="g"),
    )
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    moved, change = placed(spec, {"num_gpus": 2}, "pippa runs resume")
    assert (moved.config.batch_size, moved.config.gradient_accumulation_steps) == (80, 4)
    assert moved.config.global_batch == config.global_batch == 640 and "accumulation" in change
    argv = to_argv(moved.config)
    assert argv[argv.index("--global-batch-size") + 1] == "160"
    assert placed(spec, {}, "pippa runs resume") == (spec, "")
    divided, _ = placed(spec, {"num_gpus": 2, "fsdp": True}, "pippa runs resume")
    assert divided.config.fsdp and "--fsdp" in to_argv(divided.config)
    whole, _ = placed(divided, {"num_gpus": 1, "fsdp": False}, "pippa runs resume")
    assert whole.config.global_batch == 640 and not whole.config.fsdp
    with pytest.raises(UsageError, match=r"--fsdp: one GPU .* --no-fsdp"):
        placed(divided, {"num_gpus": 1}, "pippa runs resume")


def test_a_stored_configuration_is_read_as_its_own_generations(monkeypatch):
    class Next(N17Config):
        generation = N17._replace(name="N9.9")

    monkeypatch.setattr(generations, "CONFIGS", {**generations.CONFIGS, "N9.9": Next})
    values = {"dataset_path": ["data"], "data_config": registered()["so100"]}
    for config in (
        FinetuneConfig(dataset_path=["data"]),
        N17Config.model_validate(values),
        Next.model_validate(values),
    ):
        written = ANY.dump_python(config, mode="json")
        assert written.get("generation") == ("N9.9" if type(config) is Next else None)
        assert ANY.validate_python(written) == config and type(ANY.validate_python(written)) is type(config)
