"""A dataset folder with the ``meta/modality.json`` that it may lack: to be looked at, not to be trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from trainer.importers.downloads import Log
from trainer.importers.normalize_dataset import linked, normalized


@contextmanager
def completed(folder: Path, name: str, work: Path, log: Log) -> Generator[Path]:
    """``folder``, or a temporary one in ``work`` made from it: in a layout that is read, with all states, actions,
    cameras and an instruction named. ``log`` gets what was proposed.

    Raises ``DatasetError`` for what is no dataset, or has nothing that could be named.
    """
    from trainer.data.dataset_meta import SourceEntry, load_modality
    from trainer.data.known_robots import to_json
    from trainer.data.proposal import TASK_KEY, propose

    with normalized(folder, None, name, work, log) as (ready, _):
        file = ready / "meta/modality.json"
        if file.exists():
            modality = load_modality(ready)
            if modality.annotation:
                yield ready
                return
            annotation = {TASK_KEY: SourceEntry(original_key="task_index")}
            modality = modality.model_copy(update={"annotation": annotation})
        else:
            modality = propose(ready, "everything").modality
            log(f"{name} has no meta/modality.json; it is shown as `pippa data init` proposes it.")
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work, prefix="fit-") as temporary:
            copy = linked(ready, Path(temporary) / "dataset")
            (copy / "meta/modality.json").unlink(missing_ok=True)
            (copy / "meta/modality.json").write_text(to_json(modality), encoding="utf-8")
            yield copy
