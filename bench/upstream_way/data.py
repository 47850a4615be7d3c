"""Upstream's way to a training sample, rewritten from what it does: everything at every access.

The parquet file is read, the columns are stacked for each key, the video is opened, sought and decoded up to the frame,
the transforms run image by image and key by key, and the prompt is tokenised. It gives the numbers upstream gives
(``tests/bench/test_upstream_way.py``) and takes about as long as the real code beside it (``bench.upstream_way.real``).
On a 2-core EPYC the real code took 183 ms of processor time a sample with torchvision_av, 102 ms with torchcodec.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torchvision.transforms import v2

from trainer.data.configs import get_data_config
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata
from trainer.gr00t.n15.processor import EagleProcessor, prompt_text


def last_frame_with_av(path: Path, timestamp: float) -> np.ndarray:
    """``torchvision_av``: every frame from the key frame to the wanted one is converted to RGB and kept."""
    frames, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(int(timestamp / (stream.time_base or 1)), backward=True, stream=stream)
        for frame in container.decode(stream):
            tensor = torch.as_tensor(frame.to_rgb().to_ndarray()).permute(2, 0, 1)
            frames.append(tensor.numpy())
            times.append(float((frame.pts or 0) * (frame.time_base or 1)))
            if times[-1] >= timestamp:
                break
    kept = np.array(frames)
    shown = np.flatnonzero(np.array(times) <= timestamp)
    return kept[shown[-1] if len(shown) else 0].transpose(1, 2, 0)


def last_frame_with_torchcodec(path: Path, timestamp: float) -> np.ndarray:
    """``torchcodec``: a decoder is made for each access. Raises ``ImportError`` or ``RuntimeError`` without it."""
    from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]

    decoder = VideoDecoder(str(path), device="cpu", dimension_order="NHWC", num_ffmpeg_threads=0)
    return decoder.get_frames_played_at(seconds=[timestamp]).data.numpy()[0]


BACKENDS = {"torchvision_av": last_frame_with_av, "torchcodec": last_frame_with_torchcodec}


class UpstreamWay:
    """Samples of the demo data's kind: one camera, ``fourier_gr1_arms_only``."""

    def __init__(self, dataset: Path, backend: str, processor: EagleProcessor) -> None:
        self.meta = DatasetMeta.load(dataset)
        self.config = get_data_config("fourier_gr1_arms_only")
        self.statistics = build_metadata(self.meta, "new_embodiment").statistics
        self.read = BACKENDS[backend]
        self.processor = processor
        self.steps = [(episode.episode_index, step) for episode in self.meta.episodes for step in range(episode.length)]
        camera = self.meta.info.camera(self.meta.modality.column("video", self.config.video[0]))
        width, height = camera.resolution
        self.transforms = [
            v2.RandomCrop((int(height * 0.95), int(width * 0.95))),
            v2.Resize((224, 224), interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
            v2.ColorJitter(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.08),
        ]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample: image, text, padded state and action."""
        episode, step = self.steps[index]
        table = pq.read_table(self.meta.parquet_path(episode)).to_pydict()
        raw = {
            f"{kind}.{key}": self._column(table, kind, key, step)
            for kind in ("state", "action")
            for key in self.config.keys(kind)
        }
        text = self.meta.tasks[table[self.meta.modality.column("annotation", self.config.keys("annotation")[0])][step]]
        video = self.meta.video_path(self.config.video[0], episode)
        frame = self.read(video, table["timestamp"][step])
        state = torch.cat([self._sin_cos(raw[f"state.{key}"]) for key in self.config.keys("state")], dim=-1).numpy()
        action = torch.cat([self._min_max(key, raw[f"action.{key}"]) for key in self.config.keys("action")], dim=-1)
        return {
            "image": Image.fromarray(self._image(frame)),
            "text": prompt_text(text, 1, self.processor.image_tokens),
            "state": np.pad(state, ((0, 0), (0, 64 - state.shape[1]))),
            "action": np.pad(action.numpy(), ((0, 0), (0, 32 - action.shape[1]))),
        }

    def _column(self, table: dict[str, list[Any]], kind: str, key: str, step: int) -> np.ndarray:
        entry = getattr(self.meta.modality, kind)[key]
        values = np.stack([np.asarray(row) for row in table[self.meta.modality.column(kind, key)]])
        steps = np.array([step]) if kind == "state" else step + np.arange(16)
        return values[:, np.arange(entry.start, entry.end)][np.clip(steps, 0, len(values) - 1)]

    def _sin_cos(self, values: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(values)
        return torch.cat([torch.sin(tensor), torch.cos(tensor)], dim=-1)

    def _min_max(self, key: str, values: np.ndarray) -> torch.Tensor:
        statistics, tensor = self.statistics.action[key], torch.from_numpy(values)
        low, high = torch.tensor(statistics.min).double(), torch.tensor(statistics.max).double()
        moving = low != high
        scaled = torch.zeros_like(tensor)
        scaled[..., moving] = 2 * (tensor[..., moving] - low[moving]) / (high[moving] - low[moving]) - 1
        return scaled

    def _image(self, frame: np.ndarray) -> np.ndarray:
        images = v2.functional.to_dtype(torch.from_numpy(frame[None]).permute(0, 3, 1, 2), torch.float32, scale=True)
        for transform in self.transforms:
            images = transform(images)
        return (images.permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()[0]

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch: prompts tokenised, images rescaled and normalised one by one."""
        tokenizer = self.processor.tokenizer
        tokens = [tokenizer.encode(sample["text"], add_special_tokens=False).ids for sample in samples]
        longest = max(map(len, tokens))
        pixels = [(np.asarray(sample["image"]).astype(np.float32) / 255 - 0.5) / 0.5 for sample in samples]
        return {
            "eagle_input_ids": torch.tensor([[0] * (longest - len(ids)) + ids for ids in tokens]),
            "eagle_pixel_values": torch.from_numpy(np.stack([image.transpose(2, 0, 1) for image in pixels])),
            "state": torch.from_numpy(np.stack([sample["state"] for sample in samples])),
            "action": torch.from_numpy(np.stack([sample["action"] for sample in samples])),
        }
