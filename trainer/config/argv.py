"""Flags and configurations: ``FinetuneConfig`` as upstream's command line, and back.

Flags are written as upstream's: ``--kebab-case`` (an underscore does as well), several values after one
``--dataset-path``, and ``--flag`` / ``--no-flag`` for what is on or off.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from trainer.command_line import Parser
from trainer.config.finetune_config import OWN_FIELDS, RUN_FIELDS, FinetuneConfig
from trainer.config.flags import add_flags, add_hidden_flags, field_problems, flag, given_values, refusal
from trainer.config.generations import ALL_FIELDS, CONFIGS, config_of, generation_named, other_flags
from trainer.config.n17_config import UPSTREAM_ORDER, N17Config
from trainer.config.presets import DEFAULT, Preset, get_preset
from trainer.config.run_spec import Engine
from trainer.data.config_file import as_argument
from trainer.data.configs import DATA_CONFIGS, declared, get_data_config
from trainer.data.data_config import DataConfig
from trainer.data.n17.embodiments import registered
from trainer.errors import UsageError
from trainer.generation import N15, N17, Generation

Provenance = dict[str, Literal["default", "preset", "flag"]]
Resolved = tuple[Preset, FinetuneConfig, Provenance]
"""A preset, its configuration with somebody's changes, and where each value came from."""

UPSTREAM_DEFAULTS: dict[str, object] = {
    "save_steps": 3000,
    "dataloader_num_workers": 12,
    "video_backend": "torchcodec",
}
"""Upstream's defaults today (branch ``n1.5-release``) that are not those of ``FinetuneConfig``."""

UPSTREAMS_FLAGS = (
    "Flags are those of Isaac-GR00T's scripts/gr00t_finetune.py, for a base model of GR00T N1.7 those of its "
    "gr00t/experiment/launch_finetune.py, in the same form."
)

_FIELDS = FinetuneConfig.model_fields
_NOT_UPSTREAMS = {
    "num_nodes": "upstream trains on one machine.",
    "fsdp": "upstream trains with the whole model on each GPU.",
    "fsdp_devices": "upstream trains with the whole model on each GPU.",
    "video_alignment": "upstream finds a row's frame by its timestamp.",
    "recompute_statistics": "upstream normalises with what meta/stats.json says.",
    "holdout": "upstream trains on every episode.",
    "exclude_episodes": "upstream trains on every episode.",
    "upstream_exact": "upstream's engine is that already: leave the flag out.",
    "lora_rank": "upstream's script for GR00T N1.7 has no LoRA.",
    "dataloader_prefetch_factor": "upstream's script for GR00T N1.7 has no such flag.",
}
_N17_OWN = ("lora_rank", "dataloader_prefetch_factor")
UPSTREAM_GENERATION: Mapping[Engine, Generation] = {"isaac-uv": N15, "isaac-conda": N15, "isaac-n17": N17}
"""What the script in each image of Isaac-GR00T trains."""
UPSTREAM_HORIZON = 40
"""Upstream's script for N1.7 sets ``max_action_horizon`` to this."""


def to_argv(config: FinetuneConfig, names: Collection[str] | None = None) -> list[str]:
    """The fields of ``config``, all or those in ``names``, as flags in upstream's order; pippa's own where they differ
    from the default, and those of N1.7 that are not set not at all.

    ``parse_flags`` and upstream's tyro read them back. Raises ``UsageError`` for a value that begins with a dash, which
    no such command line can carry.
    """
    fields = type(config).fields()
    order = (*UPSTREAM_ORDER, *config.own_fields) if isinstance(config, N17Config) else fields
    if names is not None and isinstance(config, N17Config) and "batch_size" in names:
        names = {*names, "global_batch_size"}
        config = config.model_copy(update={"global_batch_size": config.batch_size * config.processes})
    argv: list[str] = []
    for name in order:
        if names is not None and name not in names:
            continue
        value = getattr(config, name)
        if value is None or (name in config.own_fields and value == fields[name].default):
            continue  # upstream's script doesn't know it
        if name == "modality_config_path" and names is None:
            continue  # what it says is the data config
        if isinstance(value, bool):
            argv.append(flag(name, on=value))
            continue
        texts = _texts(name, value, newer=isinstance(config, N17Config))
        for text in texts:
            if text.startswith("-"):
                raise UsageError(f"{flag(name)}: {text!r} begins with a dash.", f"Write it as a path: ./{text}")
        argv += [flag(name), *texts]
    return argv


def _texts(name: str, value: Any, *, newer: bool) -> list[str]:
    """A value as words; for the ``newer`` generation, N1.7, several datasets are one word, as its script takes them."""
    if isinstance(value, dict):
        return [text for pair in value.items() for text in map(str, pair)]
    if isinstance(value, list):
        return [os.pathsep.join(value)] if newer and name == "dataset_path" else value
    if name == "data_config":
        known = newer and isinstance(value, DataConfig) and registered().get(value.name) == value
        return [value.name if known else as_argument(value)]
    return [repr(value) if isinstance(value, float) else str(value)]


def pinned(config: FinetuneConfig) -> list[str]:
    """The fields with a value that was upstream's default when the recipes were written and no longer is.

    Their recipes never named them; upstream's script of today gives the same training only when they are set.
    """
    if config.generation != N15:
        return []
    return [name for name in UPSTREAM_DEFAULTS if getattr(config, name) == _FIELDS[name].default]


def require_engine_can(config: FinetuneConfig, engine: Engine) -> None:
    """Raise ``UsageError`` for what upstream's script takes and then fails on, minutes later and on a GPU."""
    if engine == "native":
        return
    if config.generation != (theirs := UPSTREAM_GENERATION[engine]):
        others = [name for name, generation in UPSTREAM_GENERATION.items() if generation == config.generation]
        raise UsageError(
            f"--engine {engine} trains {theirs}; this training is one of {config.generation}.",
            f"The native engine trains it: --engine native. Upstream's own code: --engine {' or '.join(others)}.",
        )
    problems = _unlike_upstream_n17(config) if isinstance(config, N17Config) else _unlike_upstream_n15(config)
    problems += [
        f"{flag(name)}: {_NOT_UPSTREAMS[name]}"
        for name in (*OWN_FIELDS, *_N17_OWN)
        if name not in RUN_FIELDS
        and name in config.own_fields
        and getattr(config, name) != type(config).model_fields[name].default
    ]
    if problems:
        raise UsageError("\n".join(problems), "The native engine takes all of these: --engine native.")


def _unlike_upstream_n15(config: FinetuneConfig) -> list[str]:
    problems = []
    if config.dataloader_num_workers == 0:
        problems.append("--dataloader-num-workers 0: upstream always passes a prefetch factor, which needs a worker.")
    if config.report_to == "azure_ml":
        problems.append("--report-to azure_ml: upstream's environment has no Azure ML; wandb and tensorboard work.")
    if config.data_config not in DATA_CONFIGS:
        problems.append(
            f"--data-config {config.data_config}: upstream's own data configs are classes of its transforms, pippa's "
            "are declarations; upstream knows the built-in ones alone."
        )
    return problems


def _unlike_upstream_n17(config: N17Config) -> list[str]:
    problems = []
    data_config, theirs = get_data_config(config.data_config), registered().get(config.embodiment_tag)
    if theirs not in (None, data_config):
        problems.append(
            f"--data-config {data_config}: upstream has one for {config.embodiment_tag} and registers no other; "
            "--embodiment-tag new_embodiment takes any."
        )
    if data_config.action_horizon > UPSTREAM_HORIZON:
        problems.append(
            f"--data-config {data_config}: predicts {data_config.action_horizon} steps; upstream's script takes "
            f"{UPSTREAM_HORIZON}, whatever the base model says."
        )
    if config.num_gpus > 1:
        problems.append("--num-gpus: upstream's script trains on several by DeepSpeed, whose checkpoints differ.")
    return problems


def parse_flags(
    argv: Sequence[str], base: FinetuneConfig, prog: str = "trainer finetune"
) -> tuple[FinetuneConfig, set[str]]:
    """``base`` with the flags of ``argv`` applied, and the names of the fields they set.

    ``--help`` prints every flag with its help and the value in ``base``, then raises ``SystemExit(0)``. All that is
    wrong is in one ``UsageError`` that names each flag and its right form.
    """
    config = type(base)
    given, problems = _parsed(argv, config, {name: getattr(base, name) for name in config.fields()}, prog)
    given = _in_experiment(given, {"output_dir": base.output_dir})
    values = {**base.model_dump(), "data_config": as_argument(base.data_config), **given}
    return _validated(config, values, prog, [*problems, *other_flags(config, given)]), set(given)


def base_model_in(argv: Sequence[str]) -> str | None:
    """What ``--base-model-path`` says in ``argv``, whatever else is wrong there; None where it is not there."""
    for word, after in zip(argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == "--base-model-path":
            return value if equals else after
    return None


def resolve(
    preset_name: str, argv: Sequence[str], prog: str = "trainer run", environ: Mapping[str, str] = os.environ
) -> Resolved:
    """``resolve_values`` with the flags of ``argv``, those that ``parse_flags`` takes."""
    preset, prog = get_preset(preset_name), f"{prog} {preset_name}"
    given, problems = _parsed(argv, preset.kind, preset.known, prog)
    return resolve_values(preset, given, prog, environ, problems)


def resolve_values(
    preset: str | Preset,
    overrides: Mapping[str, Any],
    prog: str = "pippa train PRESET",
    environ: Mapping[str, str] = os.environ,
    problems: Sequence[str] = (),
) -> Resolved:
    """The preset, its configuration with ``overrides`` applied, and where each field's value came from.

    ``PIPPA_BASE_MODEL`` stands in for a base model that they leave open, if it is one of the preset's generation.
    Without a preset the base model decides which generation's arguments there are. Raises ``UsageError`` for an unknown
    preset or field, or a value out of bounds, naming all that is wrong; ``problems`` are those that are known already.
    """
    preset = get_preset(preset) if isinstance(preset, str) else preset
    config, overrides = preset.kind, dict(overrides)
    if base_model := environ.get("PIPPA_BASE_MODEL"):
        known = generation_named(base_model)
        if preset.name == DEFAULT.name or known in (None, config.generation):
            overrides = {"base_model_path": base_model, **overrides}
    if preset.name == DEFAULT.name:
        config = config_of(overrides.get("base_model_path"))
    problems = [*problems, *other_flags(config, overrides)]
    overrides = {name: value for name, value in overrides.items() if name in config.fields() or name not in ALL_FIELDS}
    overrides = _in_experiment(overrides, preset.values)
    values = {**preset.values, **overrides}
    for one, other in (("data_config", "modality_config_path"), ("modality_config_path", "data_config")):
        if one in overrides and other not in overrides:
            values.pop(other, None)  # what the preset says in the other way
    made = _validated(config, values, prog, problems)
    provenance: Provenance = {
        name: "flag" if name in overrides else "preset" if name in preset.arguments else "default"
        for name in config.fields()
    }
    return preset, made, provenance


def add_config_flags(
    parser: Parser,
    values: Mapping[str, Any],
    config: type[FinetuneConfig] = FinetuneConfig,
    *,
    several: bool = False,
) -> None:
    """Let ``parser`` take every argument of a fine-tuning, or ``several`` values of each; help shows ``values``.

    Help shows the flags of ``config``. Those of another generation are taken too: they are refused later, when it
    is known what is trained.
    """
    add_flags(parser, config, values, config.groups, several=several)
    for other in CONFIGS.values():
        add_hidden_flags(parser, other, [name for name in other.fields() if name not in config.fields()], several)


def given_arguments(arguments: Namespace) -> dict[str, Any]:
    """The arguments of a fine-tuning that a command line sets, of any generation, as texts, lists and truth values."""
    return given_values(ALL_FIELDS, arguments)


def _parsed(
    argv: Sequence[str], config: type[FinetuneConfig], shown: Mapping[str, Any], prog: str
) -> tuple[dict[str, Any], list[str]]:
    """The values that ``argv`` sets, not validated, and what is wrong with its form."""
    parser = Parser(prog, collects=True, usage=f"{prog} [--flag …]", description=UPSTREAMS_FLAGS)
    add_config_flags(parser, shown, config)
    arguments = parser.parse_args(argv)
    return given_arguments(arguments), arguments.problems


def _in_experiment(given: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` with ``--experiment-name`` as part of the output folder, as upstream has it."""
    given = dict(given)
    if name := given.pop("experiment_name", None):
        folder = given.get("output_dir") or before.get("output_dir") or N17Config.model_fields["output_dir"].default
        given["output_dir"] = str(PurePath(str(folder)) / str(name))
    return given


def _validated(
    config: type[FinetuneConfig], values: Mapping[str, Any], prog: str, problems: Sequence[str] = ()
) -> FinetuneConfig:
    values = {name: value for name, value in values.items() if name in config.model_fields or name not in ALL_FIELDS}
    # A file or a module is read here, where its name was typed; from here on the declaration itself travels.
    ready, unreadable = config.resolved(values)
    found = [*problems, *field_problems(config, ready), *unreadable]
    if found:
        raise refusal(found, prog)
    made = config.model_validate(ready)
    return made.model_copy(update={"data_config": declared(made.data_config)}) if config is FinetuneConfig else made
