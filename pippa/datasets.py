"""A dataset, read as a training reads it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.settings import pippa_home
from trainer.errors import DatasetError

if TYPE_CHECKING:
    from trainer.data.data_config import DataConfig
    from trainer.data.reader import DatasetReader


def open_dataset(name: str | PathLike[str], data_config: DataConfig | str | None = None) -> DatasetReader:
    """The dataset ``name``: a folder, or what `pippa data add` takes, imported into the store if it is not there.

    ``data_config`` says which cameras, states and actions are read; by default the first that fits. What comes back has
    upstream's names: ``trajectory_ids``, ``lengths`` by episode, and ``get_step_data(episode, frame)``, a dictionary of
    ``video.<key>`` uint8 [1, H, W, 3], ``state.<key>`` [1, D], ``action.<key>`` [H, D] and the instruction. Raises
    ``UsageError`` for an unknown name, ``DatasetError`` for a dataset that can't be read or that nothing fits.
    """
    from trainer import importers
    from trainer.data.configs import declared_here, get_data_config
    from trainer.data.dataset_meta import load_modality
    from trainer.data.proposal import fitting_configs
    from trainer.data.reader import DatasetReader
    from trainer.importers.names import Folder
    from trainer.store.local_cache import cached

    if importers.is_folder(str(name)):
        folder = Folder(str(name)).existing()
    else:
        from flows.commands import opened_store
        from flows.settings import load_environment

        load_environment()
        store = opened_store()
        ref = importers.dataset(store, str(name), importers.downloads_folder(pippa_home()))
        folder = cached(store, ref, pippa_home(), lambda _: None)
    if data_config is None:
        fitting = fitting_configs(load_modality(folder), declared_here())
        if not fitting:
            raise DatasetError(f"No data config fits {name}.", f"`pippa data init {name}` proposes one.")
        data_config = fitting[0]
    config = get_data_config(data_config) if isinstance(data_config, str) else data_config
    return DatasetReader(Path(folder), config)
