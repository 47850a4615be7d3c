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
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import add_flags, add_hidden_flags, field_problems, flag, given_values, refusal
from trainer.config.generations import ALL_FIELDS, CONFIGS, config_of, generation_named, other_flags
from trainer.config.presets import DEFAULT, Preset, get_preset
from trainer.config.run_spec import Engine
from trainer.data.config_file import as_argument
from trainer.data.rules import rules_of
from trainer.errors import UsageError
from trainer.generation import GENERATIONS

Provenance = dict[str, Literal["default", "preset", "flag"]]
Resolved = tuple[Preset, FinetuneConfig, Provenance]
"""A preset, its configuration with somebody's changes, and where each value came from."""

_FIRST, *_OTHERS = GENERATIONS
UPSTREAMS_FLAGS = (
    f"Flags are those of Isaac-GR00T's {_FIRST.script}, "
    + "".join(f"for a base model of {each} those of its {each.script}, " for each in _OTHERS)
    + "in the same form."
)


def to_argv(config: FinetuneConfig, names: Collection[str] | None = None) -> list[str]:
    """The fields of ``config``, all or those in ``names``, as flags in upstream's order; pippa's own where they differ
    from the default, and those that are not set not at all.

    ``parse_flags`` and upstream's tyro read them back. Raises ``UsageError`` for a value that begins with a dash, which
    no such command line can carry.
    """
    fields = type(config).fields()
    names = names if names is None else {config.decided_by.get(name, name) for name in names}
    argv: list[str] = []
    for name in config.flag_order():
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
        texts = config.words(name)
        for text in texts:
            if text.startswith("-"):
                raise UsageError(f"{flag(name)}: {text!r} begins with a dash.", f"Write it as a path: ./{text}")
        argv += [flag(name), *texts]
    return argv


def pinned(config: FinetuneConfig) -> list[str]:
    """The fields with a value that was upstream's default when the recipes were written and no longer is.

    Their recipes never named them; upstream's script of today gives the same training only when they are set.
    """
    fields = type(config).model_fields
    return [name for name in config.moved_defaults if getattr(config, name) == fields[name].default]


def require_engine_can(config: FinetuneConfig, engine: Engine) -> None:
    """Raise ``UsageError`` for what upstream's script takes and then fails on, minutes later and on a GPU."""
    if engine == "native":
        return
    if engine not in (able := config.generation.engines):
        theirs = next(generation for generation in GENERATIONS if engine in generation.engines)
        raise UsageError(
            f"--engine {engine} trains {theirs}; this training is one of {config.generation}.",
            "The native engine trains it: --engine native."
            + (f" Upstream's own code: --engine {' or '.join(able)}." if able else ""),
        )
    fields = type(config).model_fields
    problems = config.unlike_upstream()
    problems += [
        f"{flag(name)}: {why}"
        for name, why in config.not_upstreams.items()
        if getattr(config, name) != fields[name].default
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
    config = type(base)
    given, problems = _parsed(argv, config, {name: getattr(base, name) for name in config.fields()}, prog)
    given = _in_experiment(given, {"output_dir": base.output_dir}, config)
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
    overrides = _in_experiment(overrides, preset.values, config)
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


def _in_experiment(given: Mapping[str, Any], before: Mapping[str, Any], config: type[FinetuneConfig]) -> dict[str, Any]:
    """``given`` with ``--experiment-name`` as part of the output folder, as upstream has it."""
    given = dict(given)
    if name := given.pop("experiment_name", None):
        folder = given.get("output_dir") or before.get("output_dir") or config.model_fields["output_dir"].default
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
    return made.model_copy(update={"data_config": rules_of(config.generation.name).declared(made.data_config)})
