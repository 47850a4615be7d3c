"""What every training says, does and writes of its data, of any generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.settings import frame_cache_bytes, frame_cache_folder, pippa_home
from trainer.data.configs import DataConfig
from trainer.data.frames import FrameStore
from trainer.data.policy_config import PolicyConfig, sources
from trainer.data.reader import DatasetReader
from trainer.data.result_cache import ResultCache
from trainer.events import Event, PhaseEvent
from trainer.forecast import room_for_checkpoints


class Loaded(Protocol):
    """A training's data of any generation."""

    config: DataConfig
    readers: list[DatasetReader]
    held_out: list[dict[int, str]]

    @property
    def trained_on(self) -> list[str]:
        """The hash of every episode that is trained on."""
        ...


class FrameCache:
    """Where the decoded frames of a training lie, and how much room they may take there."""

    def __init__(self, config: FinetuneConfig) -> None:
        output_dir, base_model = Path(config.output_dir).absolute(), Path(config.base_model_path)
        self.cache_dir = frame_cache_folder()
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        self.cache_bytes = frame_cache_bytes()
        # A model of the hub is fetched when the dataset was found to be good; until then its size is not known.
        shares_disk = output_dir.stat().st_dev == self.cache_dir.stat().st_dev
        self.spare_bytes = room_for_checkpoints(base_model, config, output_dir) if shares_disk else 0
        self.memory = ResultCache(pippa_home() / "cache" / "data.sqlite")

    def store(self) -> FrameStore:
        """The frames by their number."""
        return FrameStore(self.cache_dir, self.cache_bytes, self.spare_bytes, self.memory)


def prepare_frames(
    frames: FrameStore,
    held_out: Sequence[Mapping[int, str]],
    emit: Callable[[Event], None],
    *,
    on_gpu: bool = False,
) -> None:
    """Say which episodes are held out and how frames are kept, and decode what the cache will hold.

    ``on_gpu`` is whether planes are converted there.
    """
    for number, episodes in enumerate(held_out, start=1):
        if episodes:
            named = f"{'episode' if len(episodes) == 1 else 'episodes'} {', '.join(map(str, episodes))}"
            which = f" of dataset {number}" if len(held_out) > 1 else ""
            emit(PhaseEvent(phase="load", message=f"Held out{which}: {named}"))
    if frames.planar:
        where = "on the GPU" if on_gpu else "on the CPU"
        message = f"{frames.planar:,} videos are kept as 4:2:0, converted to RGB {where}"
        emit(PhaseEvent(phase="load", message=message))
    if missing := frames.missing():
        emit(PhaseEvent(phase="load", message=f"Decoding {missing:,} videos into the frame cache, once"))
    frames.prepare()


def policy_config(
    config: FinetuneConfig,
    dataset: Loaded,
    denoising_steps: int,
    image_sizes: Mapping[str, tuple[int, int]] | None = None,
) -> PolicyConfig:
    """What a checkpoint knows of itself beyond upstream's files."""
    cameras, joints = sources(dataset.readers[0].meta, dataset.config)
    return PolicyConfig(
        data_config=dataset.config,
        embodiment_tag=config.embodiment_tag,
        action_horizon=dataset.config.action_horizon,
        denoising_steps=denoising_steps,
        video_alignment=config.video_alignment,
        cameras=cameras,
        joints=joints,
        image_sizes=dict(image_sizes or {}),
        held_out=[each for held_out in dataset.held_out for each in held_out.values()],
        trained_on=dataset.trained_on,
        exclude_episodes=config.exclude_episodes,
    )
