from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.argv import parse_flags, require_engine_can, resolve, resolve_values, to_argv
from trainer.config.data_options import VideoAlignment
from trainer.config.finetune_config import OWN_FIELDS, EmbodimentTag, FinetuneConfig, ReportTo, VideoBackend
from trainer.config.presets import PRESETS
from trainer.data.configs import DATA_CONFIGS
from trainer.errors import UsageError

BLOG = PRESETS["blog"].config

# A command line can carry any text but NUL and surrogates; values that begin with a dash are refused (see below).
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: not text.startswith("-")
)
positive = st.integers(1, 10**9)


def config_of(fsdp: bool, num_gpus: int, groups: int, **values: Any) -> FinetuneConfig:
    """One with two GPUs at least where the model is divided between them, by all or in groups."""
    if fsdp and groups:
        return FinetuneConfig(fsdp=True, fsdp_devices=num_gpus + 1, num_gpus=(num_gpus + 1) * groups, **values)
    return FinetuneConfig(fsdp=fsdp, num_gpus=num_gpus + fsdp, **values)


configs = st.builds(
    config_of,
    dataset_path=st.lists(texts, min_size=1, max_size=4),
    output_dir=texts,
    data_config=st.sampled_from(sorted(DATA_CONFIGS)),
    base_model_path=texts,
    batch_size=positive,
    max_steps=positive,
    num_gpus=positive,
    groups=st.integers(0, 3),
    save_steps=positive,
    learning_rate=st.floats(0, 1, exclude_min=True),
    weight_decay=st.floats(0, 1),
    warmup_ratio=st.floats(0, 1),
    lora_rank=st.integers(0, 10**9),
    lora_alpha=positive,
    lora_dropout=st.floats(0, 1, exclude_max=True),
    dataloader_num_workers=st.integers(0, 10**9),
    gradient_accumulation_steps=positive,
    dataloader_prefetch_factor=positive,
    report_to=st.sampled_from(get_args(ReportTo)),
    embodiment_tag=st.sampled_from(get_args(EmbodimentTag)),
    video_backend=st.sampled_from(get_args(VideoBackend)),
    video_alignment=st.sampled_from(get_args(VideoAlignment)),
    exclude_episodes=st.lists(st.integers(0, 10**9 - 1).map("1:{}".format), max_size=4),
    **{name: st.booleans() for name, field in FinetuneConfig.model_fields.items() if field.annotation is bool},
)


@given(configs)
@settings(deadline=None)
def test_flags_carry_every_configuration_back(config):
    parsed, given_ = parse_flags(to_argv(config), BLOG)
    assert parsed == config
    own = {name for name in OWN_FIELDS if getattr(config, name) != FinetuneConfig.model_fields[name].default}
    assert given_ == set(FinetuneConfig.model_fields) - set(OWN_FIELDS) | own


def test_what_upstreams_script_does_not_take_it_is_not_given():
    argv = to_argv(BLOG)
    assert not [each for each in argv if "video-alignment" in each or "recompute" in each]
    own = BLOG.model_copy(update={"video_alignment": "index", "recompute_statistics": True})
    assert to_argv(own) == [*argv, "--video-alignment", "index", "--recompute-statistics"]
    with pytest.raises(UsageError, match=r"--video-alignment: .*\n--recompute-statistics: "):
        require_engine_can(own, "isaac-uv")
    require_engine_can(BLOG, "isaac-uv")


def test_flags_are_upstreams():
    argv = to_argv(BLOG.model_copy(update={"dataset_path": ["A", "B"], "tune_llm": True}))
    assert argv[:5] == ["--dataset-path", "A", "B", "--output-dir", "so101-checkpoints"]
    assert "--tune-llm" in argv and "--no-tune-visual" in argv and "--no-resume" in argv
    assert argv[argv.index("--weight-decay") + 1] == "1e-05"


@pytest.mark.parametrize("text", ["--batch_size 8 --no-tune_projector", "--batch-size=8 --no-tune-projector"])
def test_only_what_is_given_changes(text):
    config, given_ = parse_flags(text.split(), BLOG)
    assert config == BLOG.model_copy(update={"batch_size": 8, "tune_projector": False})
    assert given_ == {"batch_size", "tune_projector"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("--tune-llm false", "write --no-tune-llm"),
        ("--tune_llm False", "write --no-tune-llm"),
        ("--tune-llm=true", "switch it on, write --tune-llm"),
        ("--no-tune-llm 1", "switch it on, write --tune-llm"),
        ("--bach-size 8", "mean --batch-size?"),
        ("--no-tune-lm", "mean --no-tune-llm?"),
        ("-batch-size 8", "mean --batch-size?"),
        ("--batch-size 0", "--batch-size: input should be greater than or equal to 1 (got 0)"),
        ("--batch-size eight", "--batch-size: 'eight' is not a whole number"),
        ("--learning-rate fast", "--learning-rate: 'fast' is not a number"),
        ("--learning-rate -1", "--learning-rate: input should be greater than 0"),
        ("--learning-rate nan", "--learning-rate: input should be"),
        ("--report-to none", "--report-to: 'none' is not one of wandb, tensorboard, azure_ml."),
        ("--report-to wanbd", "Did you mean wandb?"),
        ("--lr 1e-4", "mean --learning-rate?"),
        ("--workers 4", "mean --dataloader-num-workers?"),
        ("--epochs 4", "There is no flag --epochs."),
        ("--batch-size", "--batch-size needs a value"),
        ("--dataset-path", "--dataset-path needs a value"),
        ("--batch-size 8 16", "'16' belongs to no flag"),
        ("stray", "'stray' belongs to no flag"),
        ("--dataset-path A --dataset-path B", "--dataset-path A B"),
    ],
)
def test_what_is_wrong_is_named_with_the_right_form(text, says):
    with pytest.raises(UsageError) as error:
        parse_flags(text.split(), BLOG)
    assert says in str(error.value)


def test_everything_that_is_wrong_is_said_at_once():
    wrong = "--batch-size 0 --max-stepz 5 --learning-rate fast --tune-llm false --report-to none --data-config so100x"
    with pytest.raises(UsageError) as error:
        parse_flags(wrong.split(), BLOG)
    lines = error.value.message.splitlines()
    assert len(lines) == 6
    for words in ("--max-stepz", "--tune-llm", "--batch-size", "--learning-rate", "--report-to", "--data-config"):
        assert any(words in line for line in lines), words


def test_a_value_that_looks_like_a_flag_is_refused():
    with pytest.raises(UsageError, match=r"write it as a path: \./-x|\./-x"):
        to_argv(BLOG.model_copy(update={"output_dir": "-x"}))


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_flags(["--help"], BLOG)
    assert exit_.value.code == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, field in FinetuneConfig.fields().items():
        text = field.description or ""
        assert f"--{name.replace('_', '-')}" in printed
        assert text.split(". ")[0].split(": ")[0] in printed
    assert "[so100_dualcam]" in printed


def test_provenance_tells_default_preset_and_flag():
    preset, config, provenance = resolve("overfit-demo", ["--batch-size", "1", "--lora-rank", "8"])
    assert preset.name == "overfit-demo" and config.lora_rank == 8
    assert provenance["batch_size"] == "flag"  # also where the flag repeats the preset's value
    assert provenance["learning_rate"] == "preset"
    assert provenance["lora_alpha"] == "default"
    with pytest.raises(UsageError, match="overfit-demo"):
        resolve("overfit-dem", [])


def test_the_setting_stands_in_for_a_base_model_left_open():
    environ = {"PIPPA_BASE_MODEL": "tiny"}
    for _, config, provenance in (resolve("blog", [], environ=environ), resolve_values("blog", {}, environ=environ)):
        assert config.base_model_path == "tiny" and provenance["base_model_path"] == "flag"
    _, config, _ = resolve("blog", ["--base-model-path", "mine"], environ=environ)
    assert config.base_model_path == "mine"
    assert resolve_values("blog", {"base_model_path": "mine"}, environ=environ)[1] == config
    assert resolve("blog", [], environ={})[1].base_model_path != "tiny"


def test_values_and_flags_resolve_alike():
    flags, values = ["--batch-size", "4", "--no-tune-projector"], {"batch_size": 4, "tune_projector": False}
    assert resolve("smoke", flags) == resolve_values("smoke", values)
    with pytest.raises(UsageError, match=r"(?s)--batch-size.*--batchsize"):
        resolve_values("smoke", {"batch_size": 0, "batchsize": 1})
