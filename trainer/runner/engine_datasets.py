"""The datasets of a run as its engine reads them: as they are, or for Isaac-GR00T's own LeRobot v3 as v2.1.

That of N1.7 writes statistics beside the data, and takes those that it finds for its own: it gets another ``meta``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.config.run_spec import Engine
from trainer.data.data_config import DataConfig

_FOLDER = "datasets"


def for_engine(
    engine: Engine,
    datasets: Sequence[tuple[Path, str]],
    data_config: DataConfig | str,
    run_folder: Path,
    log: Callable[[str], None],
) -> list[Path]:
    """The folders of ``datasets`` (folder, name) that ``engine`` reads; converted copies lie in ``run_folder``.

    A copy that an earlier attempt of the run has finished is used again. Raises ``DatasetError`` for what can't be
    converted.
    """
    from trainer.data.layout_v3 import is_v3

    found = []
    for number, (folder, name) in enumerate(datasets):
        version = None if engine == "native" else is_v3(folder)
        if version is None:
            apart = engine == "isaac-n17"
            found.append(_with_meta_apart(folder, run_folder / _FOLDER / str(number)) if apart else folder)
            continue
        from trainer.data.convert_v3 import convert_to_v21

        converted = run_folder / _FOLDER / str(number)
        if not converted.is_dir():
            log(f"Converting {name} from LeRobot {version} to v2.1, which the engine {engine} reads.")
            building = converted.with_suffix(".building")
            shutil.rmtree(building, ignore_errors=True)  # of an attempt that was killed
            convert_to_v21(folder, building, _used_cameras(folder, data_config), log)
            _write_statistics(building)
            building.rename(converted)
        found.append(converted)
    return found


def _with_meta_apart(folder: Path, into: Path) -> Path:
    """``folder`` with a copy of its ``meta``, without statistics of relative actions: upstream keeps those by the
    action's name, whatever they are of. The rest are links.
    """
    shutil.rmtree(into, ignore_errors=True)
    without = shutil.ignore_patterns("relative_stats.json")
    shutil.copytree(folder / "meta", into / "meta", ignore=without, copy_function=shutil.copyfile)
    for entry in folder.iterdir():
        if entry.name != "meta":
            (into / entry.name).symlink_to(entry.absolute())
    return into


def _write_statistics(folder: Path) -> None:
    """As the native engine has them, so that both normalise alike: LeRobot's own of v3 are not those of the data."""
    from trainer.data.dataset_meta import DatasetMeta
    from trainer.data.statistics import load_statistics

    found = {column: each.model_dump() for column, each in load_statistics(DatasetMeta.load(folder)).items()}
    (folder / "meta/stats.json").write_text(json.dumps(found), encoding="utf-8")


def _used_cameras(folder: Path, data_config: DataConfig | str) -> set[str]:
    """The features that the cameras of ``data_config`` come from: others need not be converted."""
    from trainer.data.configs import get_data_config
    from trainer.data.dataset_meta import load_modality

    config = get_data_config(data_config) if isinstance(data_config, str) else data_config
    modality = load_modality(folder)
    return {modality.column("video", key) for key in config.video if key in modality.video}


def remove(run_folder: Path) -> None:
    """Delete the copies, where there are any."""
    shutil.rmtree(run_folder / _FOLDER, ignore_errors=True)
