"""The dataset of an evaluation, read once for all checkpoints that are evaluated on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainer.config.data_options import VideoAlignment
from trainer.config.run_spec import SnapshotRef
from trainer.config.settings import frame_cache_bytes, pippa_home
from trainer.data.configs import DataConfig
from trainer.data.exclusion import left_in
from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.data.reader import DatasetReader


class Chosen(NamedTuple):
    """An episode to evaluate on."""

    episode: int
    hash: str
    trained_on: bool


class EvaluationDataset:
    """The dataset in the folder ``path``, which is the snapshot ``ref`` where it comes from the store.

    It is as if it had none of the episodes that ``exclude`` names (``trainer.data.exclusion``): one may be damaged.
    """

    def __init__(self, path: Path, ref: SnapshotRef | None = None, exclude: Sequence[str] = ()) -> None:
        self.path = path
        self.ref = ref
        self._exclude = exclude
        self._readers: dict[tuple[str, VideoAlignment], DatasetReader] = {}
        self._hashes: dict[tuple[str, VideoAlignment], dict[int, str]] = {}

    @property
    def name(self) -> str:
        """What people call it."""
        return self.ref.name if self.ref else str(self.path)

    def reader(self, config: DataConfig, alignment: VideoAlignment) -> DatasetReader:
        """The steps that ``config`` uses. Raises ``DatasetError`` where the dataset lacks some."""
        from trainer.data.frames import FrameStore
        from trainer.data.reader import DatasetReader
        from trainer.data.result_cache import ResultCache

        key = (repr(config), alignment)
        if key not in self._readers:
            cache = pippa_home() / "cache"
            # What a training on this machine has decoded is there already.
            frames = FrameStore(cache / "frames", frame_cache_bytes(), memory=ResultCache(cache / "data.sqlite"))
            reader = self._readers[key] = DatasetReader(self.path, config, frames, alignment)
            if self._exclude:  # of another version of the dataset, some may not exist
                reader.leave_out(set(reader.trajectory_ids) - set(left_in(reader.trajectory_ids, self._exclude)))
        return self._readers[key]

    def hashes(self, config: DataConfig, alignment: VideoAlignment) -> dict[int, str]:
        """The hash of each episode."""
        from trainer.data.holdout import episode_hash

        key, reader = (repr(config), alignment), self.reader(config, alignment)
        if key not in self._hashes:
            self._hashes[key] = {episode: episode_hash(reader.table(episode)) for episode in reader.trajectory_ids}
        return self._hashes[key]

    def all_of(self, config: DataConfig, alignment: VideoAlignment, trained_on: Collection[str] | None) -> list[Chosen]:
        """All episodes; ``trained_on`` are the hashes of those that a checkpoint has seen, None for all."""
        known = self.hashes(config, alignment)
        return [Chosen(each, sha, trained_on is None or sha in trained_on) for each, sha in known.items()]


def first_of_each(episodes: Sequence[Chosen], count: int) -> list[Chosen]:
    """The first ``count`` episodes that were not trained on, and as many that were."""
    groups = [[each for each in episodes if each.trained_on == trained][:count] for trained in (False, True)]
    return [*groups[0], *groups[1]]


def named(episodes: Sequence[Chosen], numbers: Sequence[int], dataset: str) -> list[Chosen]:
    """The episodes with these numbers. Raises ``UsageError`` for one that does not exist."""
    known = {each.episode: each for each in episodes}
    if unknown := [number for number in numbers if number not in known]:
        raise UsageError(
            f"{dataset} has no episode {', '.join(map(str, unknown))}.",
            f"It has {len(known)}: {min(known)} to {max(known)}.",
        )
    return [known[number] for number in numbers]
