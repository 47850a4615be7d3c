"""W&B's server dies, refuses or is slow: the training ends as it would, and nothing of its record is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.pippa import BarePippa
from tests.support.waiting import PATIENCE
from tests.support.wandb_server import KEY, WandbServer, wandb_server


@pytest.fixture
def wandb(pippa: BarePippa) -> Iterator[WandbServer]:
    """A server that the engine's real W&B client logs twelve steps to; it stands at the sixth until it may go on."""
    with wandb_server() as server:
        engine = json.loads(pippa.environ["FAKE_ENGINE"]) | {"wandb": True}
        pippa.environ |= {
            "FAKE_ENGINE": json.dumps(engine),
            "WANDB_MODE": "online",
            "WANDB_API_KEY": KEY,
            "WANDB_BASE_URL": server.url,
            "WANDB_FINISH_TIMEOUT": "3",
        }
        pippa.is_not_recorded()
        yield server


def train(pippa: BarePippa) -> subprocess.Popen[bytes]:
    return pippa.train("--report-to", "wandb", "--evaluate", "none", "--save-steps", "4", "--max-steps", "12")


def ends_well(pippa: BarePippa, process: subprocess.Popen[bytes]) -> str:
    """What the training, which has to go on to its end, has said."""
    pippa.go_on()
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12] and pippa.left() == []
    return pippa.output.read_text()


def logged(server: WandbServer) -> list[int]:
    return sorted({row["step"] for row in server.history if "step" in row})


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "503"])
def test_what_a_server_that_went_away_lacks_is_uploaded_later(pippa: BarePippa, wandb: WandbServer, fault: str) -> None:
    process = train(pippa)
    pippa.wait_for_pause(process)
    if fault == "killed":
        wandb.stop()
    else:
        wandb.status = int(fault)
    said = ends_well(pippa, process)
    assert f"pippa runs sync {pippa.run_id}" in said
    assert len(logged(wandb)) < 12
    if fault == "killed":
        wandb.start()
    wandb.status = 200
    sync = subprocess.run(
        [*pippa.command, "runs", "sync", pippa.run_id], env=pippa.environ, capture_output=True, text=True, check=False
    )
    assert sync.returncode == 0, sync.stderr
    assert logged(wandb) == list(range(1, 13)), wandb.history


@pytest.mark.slow
def test_a_slow_server_gets_everything_and_delays_no_step(pippa: BarePippa, wandb: WandbServer) -> None:
    pippa.environ["WANDB_FINISH_TIMEOUT"] = "60"
    process = train(pippa)
    pippa.wait_for_pause(process)
    wandb.seconds = 0.5
    said = ends_well(pippa, process)
    assert "runs sync" not in said
    assert logged(wandb) == list(range(1, 13))


@pytest.mark.slow
def test_an_entity_that_is_not_the_key_s_is_named_and_the_run_recorded_offline(
    pippa: BarePippa, wandb: WandbServer
) -> None:
    wandb.forbidden = pippa.environ["WANDB_ENTITY"] = "another-team"
    process = train(pippa)
    pippa.wait_for_pause(process)
    said = ends_well(pippa, process)
    assert "permission denied" in said and f"to upload it: pippa runs sync {pippa.run_id}" in said
