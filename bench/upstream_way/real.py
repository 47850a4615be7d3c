"""Upstream's own data path as a child process: the real Isaac-GR00T N1.5 code in a separate environment.

It is started by ``bench.data`` with the Python of that environment: 3.11 with torch 2.5.1, torchvision 0.20.1,
transformers 4.51.3, av 12.3.0, torchcodec 0.1.0 (which needs the shared libraries of ffmpeg 4 to 7), pandas 2.2.3,
pyarrow 17, numpy below 2, pydantic 2.10.6, numpydantic 1.6.7, dm_tree 0.1.8, albumentations 1.4.18 with
opencv-python-headless 4.10, einops, timm 1.0.14. The checkout is any of n1.5-release's time. Nothing of pippa is
imported here. What no package registry has is replaced: ``pytorch3d``, whose rotations the demo's data
config does not use, and ``gr00t.model``'s own imports, which load the whole model and flash-attention.

It speaks the protocol of ``bench.contest``, which can't be imported there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve measurements until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    replies = sys.stdout
    sys.stdout = sys.stderr  # upstream prints
    start = time.perf_counter()
    dataset, collate = load(given.checkout, given.dataset, given.backend)
    print(json.dumps({"ready": time.perf_counter() - start}), file=replies, flush=True)

    import numpy as np

    for line in sys.stdin:
        asked = json.loads(line)
        chosen = np.random.default_rng(asked["seed"]).permutation(len(dataset))[: asked["samples"]].tolist()
        began, cpu = time.perf_counter(), time.process_time()
        for first in range(0, len(chosen), given.batch):
            collate([dataset[i] for i in chosen[first : first + given.batch]])
        taken = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        memory = {"anonymous_kb": int(status["RssAnon"].split()[0]), "mapped_kb": int(status["RssFile"].split()[0])}
        answer = {**taken, **memory}
        print(json.dumps(answer), file=replies, flush=True)


def load(checkout: Path, path: Path, backend: str) -> tuple[Any, Any]:
    """Upstream's training dataset with its training transforms, and its collator."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(checkout))
    rotations = types.ModuleType("pytorch3d.transforms")
    sys.modules["pytorch3d"] = types.ModuleType("pytorch3d")
    sys.modules["pytorch3d"].transforms = rotations  # type: ignore[attr-defined]
    sys.modules["pytorch3d.transforms"] = rotations
    model = types.ModuleType("gr00t.model")
    model.__path__ = [str(checkout / "gr00t" / "model")]
    sys.modules["gr00t.model"] = model

    import pandas  # type: ignore[import-not-found]
    from gr00t.data.dataset import LeRobotSingleDataset  # type: ignore[import-not-found]
    from gr00t.experiment.data_config import DATA_CONFIG_MAP  # type: ignore[import-not-found]
    from gr00t.model.transforms import DefaultDataCollator  # type: ignore[import-not-found]

    class Dataset(LeRobotSingleDataset):
        """Forks of the release read LeRobot v3; the look-ups of the release, which reads v2, for any of them."""

        def get_trajectory_data(self, trajectory_id: int) -> Any:
            chunk = trajectory_id // self._chunk_size
            name = self._data_path_pattern.format(episode_chunk=chunk, episode_index=trajectory_id)
            return pandas.read_parquet(self.dataset_path / name)

        def get_video_path(self, trajectory_id: int, key: str) -> Path:
            name = self._video_path_pattern.format(
                episode_chunk=trajectory_id // self._chunk_size,
                episode_index=trajectory_id,
                video_key=self.lerobot_modality_meta.video[key].original_key or key,
            )
            return self.dataset_path / name

    config = DATA_CONFIG_MAP["fourier_gr1_arms_only"]
    dataset = Dataset(
        dataset_path=path,
        modality_configs=config.modality_config(),
        embodiment_tag="new_embodiment",
        video_backend=backend,
        transforms=config.transform(),
    )
    return dataset, DefaultDataCollator()


if __name__ == "__main__":
    main()
