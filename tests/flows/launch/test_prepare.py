"""What the store lacks is brought by a container."""

from __future__ import annotations

import pytest

from flows.orchestration.ensure_imported import ensure_imported
from tests.flows.launch.conftest import Bench
from trainer.errors import UsageError
from trainer.events import Event, PhaseEvent

pytestmark = pytest.mark.docker


def test_the_snapshot_is_what_the_container_says(bench: Bench, s3_settings, monkeypatch):
    environ = {**bench.environ, **s3_settings.to_environ(), "PIPPA_HOME": str(bench.home)}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    seen: list[Event] = []
    ref = ensure_imported(
        "dataset", "us/pens", "docker", bench.run_id, data_config="so100_dualcam", observe=seen.append
    )
    assert (ref.kind, ref.name, ref.digest) == ("dataset", "us/pens", "0" * 64)
    [said] = [event.message for event in seen if isinstance(event, PhaseEvent)]
    assert said == "prepare dataset us/pens --events --data-config so100_dualcam"
    with pytest.raises(UsageError, match=r"There is no us/missing\.") as error:
        ensure_imported("model", "us/missing", "docker", bench.run_id)
    assert error.value.hint == "Look again." and bench.left() == []
