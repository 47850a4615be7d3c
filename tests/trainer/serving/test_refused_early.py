"""What a server or an evaluation can't be started with is said before torch is imported, which takes 10 s and more."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from trainer.errors import ExitCode

REFUSED = {
    "There is no checkpoint 'kitchen/best'": ["serve", "kitchen/best"],
    "no model folder /nowhere": ["serve", "/nowhere"],
    "No data config is called 'fourier_gr1_arm_only'": ["serve", "x", "--data-config", "fourier_gr1_arm_only"],
    "--denoising-steps is 0": ["serve", "x", "--denoising-steps", "0"],
    "can't read /nowhere/token": ["serve", "x"],
    "There is no checkpoint 'kitchen/latest'": ["evaluate", "--checkpoint", "kitchen/latest"],
    "There is no checkpoint 'closed/latest'": ["evaluate", "--checkpoint", "closed/latest", "--closed-loop"],
}
CODE = """
import json, os, sys
for heavy in ("torch", "transformers"):
    sys.modules[heavy] = None
from trainer.cli import main
from trainer.store.stores import open_store
open_store().create()
for said, argv in json.loads(sys.argv[1]).items():
    os.environ.pop("PIPPA_SERVE_TOKEN_FILE", None)
    if "/nowhere/token" in said:
        os.environ["PIPPA_SERVE_TOKEN_FILE"] = "/nowhere/token"
    try:
        main([*argv, *(["--port", "0", "--http-port", "0"] if argv[0] == "serve" else [])])
    except SystemExit as end:
        print("exit", end.code, file=sys.stderr)
"""


def test_what_can_be_known_without_torch_is_said_without_torch(tmp_path):
    environ = {**os.environ, "PIPPA_HOME": str(tmp_path), "PIPPA_S3_ENDPOINT": ""}
    command = [sys.executable, "-c", CODE, json.dumps(REFUSED)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    for said in REFUSED:
        assert said in done.stderr, (said, done.stderr)
    assert done.stderr.count(f"exit {int(ExitCode.USAGE)}\n") == len(REFUSED), done.stderr
