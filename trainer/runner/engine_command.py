"""The command line and the environment of a run's engine."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from trainer.config.argv import to_argv
from trainer.config.finetune_config import RUN_FIELDS, FinetuneConfig
from trainer.config.run_spec import Engine, RunSpec
from trainer.data.config_file import to_json
from trainer.masking import without_secrets
from trainer.runner import isaac_n17
from trainer.runner.parent_watch import child_environment

_OTHER_SCRIPTS: Mapping[Engine, ModuleType] = {"isaac-n17": isaac_n17}
"""Engines whose script does not take the native engine's command line as it is."""


def engine_command(
    spec: RunSpec,
    datasets: Sequence[Path],
    base_model: Path,
    folder: Path,
    output_dir: Path,
    environ: Mapping[str, str],
    *,
    resume: bool,
) -> list[str]:
    """The command that trains ``spec`` on these folders; what it must be given as a file is written into ``folder``."""
    config = spec.config.model_copy(
        update={
            "dataset_path": [str(each) for each in datasets],
            "base_model_path": str(base_model),
            "output_dir": str(output_dir),
            **{name: FinetuneConfig.model_fields[name].default for name in RUN_FIELDS},
        }
    )
    if script := _OTHER_SCRIPTS.get(spec.engine):
        given = script.arguments(config, folder, spec.wandb.project)
    else:
        given = to_argv(config.model_copy(update={"data_config": data_config_argument(spec, folder), "resume": resume}))
    return [*program(environ, "PIPPA_FINETUNE_COMMAND", "trainer.finetune"), *given]


def data_config_argument(spec: RunSpec, folder: Path) -> str:
    """What the engine's ``--data-config`` gets: the name of a built-in one, else a file with the declaration."""
    config = spec.config.data_config
    if isinstance(config, str):
        return config
    file = folder / "data_config.json"
    file.write_text(to_json(config) + "\n", encoding="utf-8")
    return str(file)


def engine_environ(environ: Mapping[str, str], keep: Collection[str] = ()) -> dict[str, str]:
    """The environment of this process without the store's address and the secrets that an engine does not need."""
    kept = {name: value for name, value in without_secrets(environ, keep).items() if not name.startswith("PIPPA_S3_")}
    return {**kept, **child_environment(), "PYTHONUNBUFFERED": "1"}


def own_environ(engine: Engine, environ: Mapping[str, str]) -> dict[str, str]:
    """What ``engine`` alone needs in its environment."""
    script = _OTHER_SCRIPTS.get(engine)
    return script.own_environ(environ) if script else {}


def program(environ: Mapping[str, str], variable: str, module: str) -> list[str]:
    """The command that ``variable`` names, else that of ``module``."""
    if variable in environ:
        return shlex.split(environ[variable])
    return [sys.executable, "-m", module] if module else []
