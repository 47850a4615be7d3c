"""Flags and configurations: ``FinetuneConfig`` as upstream's command line, and back.

Flags are written as upstream's tyro takes them: ``--kebab-case`` (an underscore does as well), several values after one
``--dataset-path``, and ``--flag`` / ``--no-flag`` for what is on or off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ValidationError

from trainer.config.finetune_config import OWN_FIELDS, RUN_FIELDS, FinetuneConfig, field_help
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

_FIELDS = FinetuneConfig.model_fields
_SWITCHES = {name for name, field in _FIELDS.items() if field.annotation is bool}
_TRUTH = re.compile(r"true|false|yes|no|on|off|0|1", re.IGNORECASE)
_NUMBER = re.compile(r"-\.?\d")


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
        f"{flag(name)}: upstream trains on every episode, as its timestamps and meta/stats.json say."
        for name in OWN_FIELDS
        if name not in RUN_FIELDS and getattr(config, name) != _FIELDS[name].default
    ]
    if problems:
        raise UsageError("\n".join(problems), "The native engine takes all of these: --engine native.")


def flag(name: str, *, on: bool = True) -> str:
    """The flag of a field: ``tune_llm`` is ``--tune-llm``, switched off ``--no-tune-llm``."""
    return f"--{'' if on else 'no-'}{name.replace('_', '-')}"


def parse_flags(
    argv: Sequence[str], base: FinetuneConfig, prog: str = "trainer finetune"
) -> tuple[FinetuneConfig, set[str]]:
    """``base`` with the flags of ``argv`` applied, and the names of the fields they set.

    ``--help`` prints every flag with its help and the value in ``base``, then raises ``SystemExit(0)``. Anything wrong
    is a ``UsageError`` that names the flag and the right form.
    """
    values, given = _parsed(argv, base, prog)
    return _validated(values, prog), given


def resolve(
    preset_name: str, argv: Sequence[str], prog: str = "trainer run", environ: Mapping[str, str] = os.environ
) -> Resolved:
    """``resolve_values`` with the flags of ``argv``, those that ``parse_flags`` takes."""
    prog = f"{prog} {preset_name}"
    values, given = _parsed(argv, get_preset(preset_name).config, prog)
    return resolve_values(preset_name, {name: values[name] for name in given}, prog, environ)


def resolve_values(
    preset_name: str,
    overrides: Mapping[str, Any],
    prog: str = "pippa train PRESET",
    environ: Mapping[str, str] = os.environ,
) -> Resolved:
    """The preset, its configuration with ``overrides`` applied, and where each field's value came from.

    ``PIPPA_BASE_MODEL`` stands in for a base model that they leave open. Raises ``UsageError`` for an unknown preset or
    field, or a value out of bounds, naming all that is wrong.
    """
    preset = get_preset(preset_name)
    if base_model := environ.get("PIPPA_BASE_MODEL"):
        overrides = {"base_model_path": base_model, **overrides}
    config = _validated({**preset.values, **overrides}, prog)
    provenance: Provenance = {
        name: "flag" if name in overrides else "preset" if name in preset.arguments else "default" for name in _FIELDS
    }
    return preset, config, provenance


def _parsed(argv: Sequence[str], base: FinetuneConfig, prog: str) -> tuple[dict[str, Any], set[str]]:
    """The value of every field, not validated, and the names of those that ``argv`` sets."""
    if {"-h", "--help"} & set(argv):
        _tyro(argv, base, prog)
    given = _given(argv)
    return _tyro(argv, base, prog), given


def _validated(values: Mapping[str, Any], prog: str) -> FinetuneConfig:
    try:
        config = FinetuneConfig.model_validate(values)
    except ValidationError as error:
        # One line for a field, though it may be of several kinds and then be wrong as each of them.
        first = {str(e["loc"][0]): e for e in reversed(error.errors())}
        problems = [f"{flag(name)}: {_sentence(e['msg'])} (got {e['input']!r})" for name, e in reversed(first.items())]
        raise UsageError("\n".join(problems), f"`{prog} --help` explains every flag.") from None
    # A file or a module is read here, where its name was typed; from here on the declaration itself travels.
    return config.model_copy(update={"data_config": declared(config.data_config)})


def _given(argv: Sequence[str]) -> set[str]:
    """The fields that ``argv`` names. Refuses what tyro would refuse with less help, or take in silence."""
    given: set[str] = set()
    takes: str | None = None  # the field whose value may come next; "" after a switch
    for token in argv:
        if not token.startswith("-") or _NUMBER.match(token):
            if takes in _SWITCHES and _TRUTH.fullmatch(token):
                _refuse_value(takes, token)
            if takes is None or takes in _SWITCHES:
                raise UsageError(f"{token!r} belongs to no flag.", "Flags come as `--name value`.")
            if takes != "dataset_path":
                takes = None
            continue
        text, equals, value = token.partition("=")
        name = text[2:].replace("-", "_")
        off = name.startswith("no_") and name[3:] in _SWITCHES
        name = name[3:] if off else name
        if not token.startswith("--") or name not in _FIELDS:
            raise UsageError(f"There is no flag {text}.", _nearest(text))
        if equals and name in _SWITCHES:
            _refuse_value(name, value)
        if name == "dataset_path" and name in given:
            # tyro, upstream's as ours, would keep the last and drop the others without a word.
            raise UsageError("--dataset-path is given twice.", "Name all datasets after one: --dataset-path A B")
        given.add(name)
        takes = None if equals and name != "dataset_path" else name
    return given


def _refuse_value(name: str, value: str) -> None:
    on = value.lower() in ("true", "yes", "on", "1")
    raise UsageError(
        f"{flag(name)} takes no value (got {value!r}).",
        f"To switch it {'on' if on else 'off'}, write {flag(name, on=on)}",
    )


def _nearest(text: str) -> str:
    flags = [flag(name) for name in _FIELDS] + [flag(name, on=False) for name in _SWITCHES]
    near = difflib.get_close_matches("--" + text.lstrip("-").replace("_", "-").lower(), flags, n=1)
    return f"Did you mean {near[0]}?" if near else "`--help` lists every flag."


@functools.cache
def _form() -> type[Any]:
    """A dataclass of the same fields without their bounds, so that pydantic reports all that are broken, not tyro."""
    import tyro

    help_of = field_help()
    types: dict[str, Any] = {name: info.annotation for name, info in _FIELDS.items()}
    types["data_config"] = str
    return dataclasses.make_dataclass(
        "Flags", [(name, Annotated[type_, tyro.conf.arg(help=help_of[name])]) for name, type_ in types.items()]
    )


def _tyro(argv: Sequence[str], base: FinetuneConfig, prog: str) -> dict[str, Any]:
    import tyro

    form = _form()
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            flags = tyro.cli(
                form,
                args=list(argv),
                default=form(**{**base.model_dump(), "data_config": as_argument(base.data_config)}),
                prog=prog,
                description="Arguments as in Isaac-GR00T's scripts/gr00t_finetune.py.",
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise UsageError(_unboxed(printed.getvalue()), f"`{prog} --help` explains every flag.") from None
    return dataclasses.asdict(flags)


def _unboxed(text: str) -> str:
    """The first paragraph in tyro's box of an error, as one line."""
    lines = [line.strip("│ \r") for line in text.splitlines() if line.startswith("│")]
    rule = next((i for i, line in enumerate(lines) if line.startswith("─")), len(lines))
    line = " ".join(lines[:rule]) or text.strip()
    line = re.sub(r"invalid literal for int\(\) with base 10: (.+)", r"\1 is not a whole number", line)
    return re.sub(r"could not convert string to float: (.+)", r"\1 is not a number", line)


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:]
