"""Upstream's loader of N1.7 as a contestant of ``bench.contest``, whose protocol it speaks.

A cold turn is a pass over the dataset as upstream's loader makes it: each shard's episodes decoded, its samples
processed, and collated in batches. The other turns collate samples that are in memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.upstream_n17.environment import arguments, pipeline


def main() -> None:
    """Serve measurements until stdin closes."""
    given = arguments().parse_args()
    replies = sys.stdout
    sys.stdout = sys.stderr  # upstream prints
    began = time.perf_counter()
    made = pipeline(given)
    mixture, _ = made._create_dataset(given.output)
    collate, (dataset,) = made._create_collator(), mixture.datasets
    print(json.dumps({"ready": time.perf_counter() - began}), file=replies, flush=True)

    import numpy as np

    kept: list[Any] = []
    for line in sys.stdin:
        asked = json.loads(line)
        random = np.random.default_rng(asked["seed"])
        began, cpu = time.perf_counter(), time.process_time()
        if asked["cold"]:
            kept = []
            for number in range(len(dataset)):
                shard = dataset.get_shard(number)
                batches(shard, random.permutation(len(shard)), given.batch, collate)
                kept += shard
            if len(kept) != asked["samples"]:
                raise SystemExit(f"A pass has {len(kept)} samples, ours has {asked['samples']}.")
        else:
            batches(kept, random.permutation(len(kept))[: asked["samples"]], given.batch, collate)
        taken = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        memory = {"anonymous_kb": int(status["RssAnon"].split()[0]), "mapped_kb": int(status["RssFile"].split()[0])}
        print(json.dumps({**taken, **memory}), file=replies, flush=True)


def batches(samples: list[Any], order: Any, size: int, collate: Any) -> None:
    """Collate ``samples`` in ``order``, and throw the batches away."""
    for first in range(0, len(order), size):
        collate([samples[index] for index in order[first : first + size]])


if __name__ == "__main__":
    main()
