"""An open-loop evaluation that only looks at its arguments."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from trainer.events import Emitter, EvaluationEvent

parser = argparse.ArgumentParser()
for name in ("model-path", "dataset-path", "data-config", "embodiment-tag", "report-dir", "trajs", "steps"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--video-alignment")
arguments = parser.parse_args()
assert (Path(arguments.model_path) / "config.json").is_file()
assert (Path(arguments.dataset_path) / "meta").is_dir()
if os.environ.get("FAKE_EVALUATE") == "fail":
    sys.exit("no policy came out")
(Path(arguments.report_dir) / "open_loop.txt").write_text(f"a plot, frames by {arguments.video_alignment}")
Emitter()(EvaluationEvent(step=0, metrics={"open_loop_mse": float(os.environ.get("FAKE_EVALUATE", "0.25"))}))
