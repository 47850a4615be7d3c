"""Flags and configurations: ``FinetuneConfig`` as upstream's command line, and back.

Flags are written as upstream's: ``--kebab-case`` (an underscore does as well), several values after one
``--dataset-path``, and ``--flag`` / ``--no-flag`` for what is on or off.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from trainer.command_line import Parser
from trainer.config.finetune_config import GROUPS, OWN_FIELDS, RUN_FIELDS, FinetuneConfig
from trainer.config.flags import add_flags, field_problems, flag, given_values, refusal
from trainer.config.presets import Preset, get_preset
from trainer.config.run_spec import Engine
from trainer.data.config_file import as_argument
from trainer.data.configs import DATA_CONFIGS, declared
from trainer.errors import UsageError

Provenance = dict[str, Literal["default", "preset", "flag"]]
Resolved = tuple[Preset, FinetuneConfig, Provenance]
"""A preset, its configuration with somebody's changes, and where each value came from."""

UPSTREAM_DEFAULTS: dict[str, object] = {
    "save_steps": 3000,
    "dataloader_num_workers": 12,
    "video_backend": "torchcodec",
}
"""Upstream's defaults today (branch ``n1.5-release``) that are not those of ``FinetuneConfig``."""

UPSTREAMS_FLAGS = "Flags are those of Isaac-GR00T's scripts/gr00t_finetune.py, in the same form."

_FIELDS = FinetuneConfig.model_fields
_NOT_UPSTREAMS = {
    "num_nodes": "upstream trains on one machine.",
    "video_alignment": "upstream finds a row's frame by its timestamp.",
    "recompute_statistics": "upstream normalises with what meta/stats.json says.",
    "holdout": "upstream trains on every episode.",
    "exclude_episodes": "upstream trains on every episode.",
    "upstream_exact": "upstream's engine is that already: leave the flag out.",
}


def to_argv(config: FinetuneConfig, names: Collection[str] | None = None) -> list[str]:
    """The fields of ``config``, all or those in ``names``, as flags in upstream's order; pippa's own where they differ
    from the default.

    ``parse_flags`` and upstream's tyro read them back. Raises ``UsageError`` for a value that begins with a dash, which
    no such command line can carry.
    """
    argv: list[str] = []
    for name in _FIELDS:
        if names is not None and name not in names:
            continue
        value = getattr(config, name)
        if name in OWN_FIELDS and value == _FIELDS[name].default:
            continue  # upstream's script doesn't know it
        if isinstance(value, bool):
            argv.append(flag(name, on=value))
            continue
        texts = value if isinstance(value, list) else [repr(value) if isinstance(value, float) else str(value)]
        for text in texts:
            if text.startswith("-"):
                raise UsageError(f"{flag(name)}: {text!r} begins with a dash.", f"Write it as a path: ./{text}")
        argv += [flag(name), *texts]
    return argv


def pinned(config: FinetuneConfig) -> list[str]:
    """The fields with a value that was upstream's default when the recipes were written and no longer is.

    Their recipes never named them; upstream's script of today gives the same training only when told.
    """
    return [name for name in UPSTREAM_DEFAULTS if getattr(config, name) == _FIELDS[name].default]


def require_engine_can(config: FinetuneConfig, engine: Engine) -> None:
    """Raise ``UsageError`` for what upstream's script takes and then fails on, minutes later and on a GPU."""
    if engine == "native":
        return
    problems: list[str] = []
    if config.dataloader_num_workers == 0:
        problems.append("--dataloader-num-workers 0: upstream always passes a prefetch factor, which needs a worker.")
    if config.report_to == "azure_ml":
        problems.append("--report-to azure_ml: upstream's environment has no Azure ML; wandb and tensorboard work.")
    if config.data_config not in DATA_CONFIGS:
        problems.append(
            f"--data-config {config.data_config}: upstream's own data configs are classes of its transforms, pippa's "
            "are declarations; upstream knows the built-in ones alone."
        )
    problems += [
        f"{flag(name)}: {_NOT_UPSTREAMS[name]}"
        for name in OWN_FIELDS
        if name not in RUN_FIELDS and getattr(config, name) != _FIELDS[name].default
    ]
    if problems:
        raise UsageError("\n".join(problems), "The native engine takes all of these: --engine native.")


def parse_flags(
    argv: Sequence[str], base: FinetuneConfig, prog: str = "trainer finetune"
) -> tuple[FinetuneConfig, set[str]]:
    """``base`` with the flags of ``argv`` applied, and the names of the fields they set.

    ``--help`` prints every flag with its help and the value in ``base``, then raises ``SystemExit(0)``. All that is
    wrong is in one ``UsageError`` that names each flag and its right form.
    """
    given, problems = _parsed(argv, {name: getattr(base, name) for name in _FIELDS}, prog)
    values = {**base.model_dump(), "data_config": as_argument(base.data_config), **given}
    return _validated(values, prog, problems), set(given)


def resolve(
    preset_name: str, argv: Sequence[str], prog: str = "trainer run", environ: Mapping[str, str] = os.environ
) -> Resolved:
    """``resolve_values`` with the flags of ``argv``, those that ``parse_flags`` takes."""
    preset, prog = get_preset(preset_name), f"{prog} {preset_name}"
    given, problems = _parsed(argv, preset.known, prog)
    return resolve_values(preset, given, prog, environ, problems)


def resolve_values(
    preset: str | Preset,
    overrides: Mapping[str, Any],
    prog: str = "pippa train PRESET",
    environ: Mapping[str, str] = os.environ,
    problems: Sequence[str] = (),
) -> Resolved:
    """The preset, its configuration with ``overrides`` applied, and where each field's value came from.

    ``PIPPA_BASE_MODEL`` stands in for a base model that they leave open. Raises ``UsageError`` for an unknown preset or
    field, or a value out of bounds, naming all that is wrong; ``problems`` are those that are known already.
    """
    preset = get_preset(preset) if isinstance(preset, str) else preset
    if base_model := environ.get("PIPPA_BASE_MODEL"):
        overrides = {"base_model_path": base_model, **overrides}
    config = _validated({**preset.values, **overrides}, prog, problems)
    provenance: Provenance = {
        name: "flag" if name in overrides else "preset" if name in preset.arguments else "default" for name in _FIELDS
    }
    return preset, config, provenance


def add_config_flags(parser: Parser, values: Mapping[str, Any], *, several: bool = False) -> None:
    """Let ``parser`` take every argument of a fine-tuning, or ``several`` values of each; help shows ``values``."""
    add_flags(parser, FinetuneConfig, values, GROUPS, several=several)


def _parsed(argv: Sequence[str], shown: Mapping[str, Any], prog: str) -> tuple[dict[str, Any], list[str]]:
    """The values that ``argv`` sets, not validated, and what is wrong with its form."""
    parser = Parser(prog, collects=True, usage=f"{prog} [--flag …]", description=UPSTREAMS_FLAGS)
    add_config_flags(parser, shown)
    arguments = parser.parse_args(argv)
    return given_values(FinetuneConfig, arguments), arguments.problems


def _validated(values: Mapping[str, Any], prog: str, problems: Sequence[str] = ()) -> FinetuneConfig:
    found = [*problems, *field_problems(FinetuneConfig, values)]
    try:
        # A file or a module is read here, where its name was typed; from here on the declaration itself travels.
        if isinstance(name := values.get("data_config"), str):
            values = {**values, "data_config": declared(name)}
    except UsageError as error:
        found.append(f"--data-config: {error.message} {error.hint}".rstrip())
    if found:
        raise refusal(found, prog)
    config = FinetuneConfig.model_validate(values)
    return config.model_copy(update={"data_config": declared(config.data_config)})
