"""Upstream's ``Gr00tPolicy`` of N1.7 on the CPU: the time from an observation's arrays to the actions.

Reads ``{"chunks": N}`` from stdin and prints the seconds of each chunk. In float32, since bf16 is slow on a CPU.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.upstream_n17.environment import TAG, arguments, make_weights


def main() -> None:
    """Answer until stdin closes."""
    parser = arguments()
    parser.add_argument("--observation", type=Path, required=True, help=".npz: video.*, state.*")
    parser.add_argument("--language", required=True, help="the language key")
    given = parser.parse_args()
    replies = sys.stdout
    sys.stdout = sys.stderr
    import numpy as np
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(given.checkout))
    from gr00t.policy.gr00t_policy import Gr00tPolicy  # type: ignore[import-not-found]

    make_weights(Path(json.loads((given.base_model / "config.json").read_text())["model_name"]))
    policy = Gr00tPolicy(TAG, str(given.base_model), device="cpu")
    policy.model.float()
    arrays = dict(np.load(given.observation))
    observation = {
        name: {key.partition(".")[2]: value for key, value in arrays.items() if key.startswith(f"{name}.")}
        for name in ("video", "state")
    }
    observation["language"] = {given.language: [["Pick up the cube."]]}
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        taken = []
        for _ in range(json.loads(line)["chunks"]):
            began = time.perf_counter()
            policy.get_action(observation)
            taken.append(time.perf_counter() - began)
        print(json.dumps(taken), file=replies, flush=True)


if __name__ == "__main__":
    main()
