"""Full disks of the cache, the checkpoints, the store and Prefect: named as full; all continues once they are not."""

from __future__ import annotations

import json

import pytest

from tests.faults.conftest import fill
from tests.support.waiting import PATIENCE, until


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_full_disk_while_a_dataset_is_made_is_named_and_heals(pippa, small_disk):
    cache = small_disk(pippa.home / "cache", "256k")
    ballast = fill(cache)
    train = ("train", "smoke", "--max-steps", "2")
    assert pippa.start(*train).wait(PATIENCE) == 6, pippa.output.read_text()
    text = pippa.output.read_text()
    assert f"No space left on the disk of {cache}" in text and "Traceback" not in text and pippa.left() == []
    ballast.unlink()
    # Too small for all of it: the error is not of the very first byte.
    assert pippa.start(*train).wait(PATIENCE) == 6, pippa.output.read_text()
    assert f"{cache}" in pippa.output.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_full_cache_while_a_run_is_prepared_is_named_and_heals(pippa, small_disk):
    pippa.go_on()
    cache = small_disk(pippa.home / "cache", "64m")
    ballast = fill(cache)
    assert pippa.train("--max-steps", "2").wait(PATIENCE) == 6, pippa.output.read_text()
    text = pippa.output.read_text()
    assert f"{cache}" in text and "Traceback" not in text and pippa.left() == []
    ballast.unlink()
    assert pippa.train("--max-steps", "2").wait(PATIENCE) == 0, pippa.output.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_full_disk_under_the_checkpoints_is_named_and_heals(pippa, small_disk, tmp_path):
    pippa.environ["FAKE_ENGINE"] = json.dumps({**json.loads(pippa.environ["FAKE_ENGINE"]), "step_seconds": 0.01})
    output = small_disk(tmp_path / "checkpoints", "4m")
    process = pippa.train("--output-dir", str(output), "--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    run_id, ballast = pippa.run_id, fill(output)
    pippa.go_on()
    assert process.wait(PATIENCE) == 6, pippa.output.read_text()
    text = pippa.output.read_text()
    assert "No space left" in text and "Traceback" not in text and f"pippa runs resume {run_id}" in text
    assert pippa.left() == []
    ballast.unlink()
    assert pippa.start("runs", "resume", run_id).wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(run_id) == [4, 8, 12]


@pytest.mark.slow
def test_a_full_disk_under_wandbs_folder_holds_up_no_training(pippa, small_disk, tmp_path):
    """W&B's files, the run's log and its events lie there; the checkpoints do not."""
    engine = json.loads(pippa.environ["FAKE_ENGINE"]) | {"wandb": True}
    pippa.environ["FAKE_ENGINE"] = json.dumps(engine)
    folder = small_disk(pippa.home / "runs", "2m")
    flags = ("--output-dir", str(tmp_path / "checkpoints"), "--report-to", "wandb", "--evaluate", "none")
    process = pippa.train(*flags, "--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    ballast = fill(folder)
    pippa.go_on()
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    text = pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12] and "Traceback" not in text and pippa.left() == []
    assert pippa.states()[pippa.run_id] == "COMPLETED" and ballast.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_full_store_holds_up_no_training_and_catches_up(pippa, small_disk):
    store = small_disk(pippa.home / "store", "8m")
    process = pippa.train("--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    ballast = fill(store)
    pippa.go_on()
    pippa.wait_for("can't be uploaded yet", process)
    assert "full" in pippa.output.read_text()
    ballast.unlink()
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12]


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_store_that_stays_full_ends_the_run_as_full(pippa, small_disk):
    store = small_disk(pippa.home / "store", "8m")
    pippa.environ["PIPPA_UPLOAD_PATIENCE"] = "2"
    process = pippa.train("--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    ballast = fill(store)
    pippa.go_on()
    assert process.wait(PATIENCE) == 6, pippa.output.read_text()
    text = pippa.output.read_text()
    assert str(store) in text and "pending-uploads" in text and pippa.left() == []
    ballast.unlink()
    del pippa.environ["PIPPA_UPLOAD_PATIENCE"]
    assert pippa.start("runs", "resume", pippa.run_id).wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_full_disk_of_prefect_costs_the_record_only(new_pippa, made_prefect, small_disk, when):
    pippa = new_pippa
    prefect = small_disk(pippa.home / "prefect", "64m")
    if when == "meanwhile":
        pippa.has_run(made_prefect)
    ballast = fill(prefect) if when == "before" else None
    process = pippa.train("--max-steps", "8")
    pippa.wait_for_pause(process)
    ballast = ballast or fill(prefect)
    pippa.go_on()
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    text = pippa.output.read_text()
    assert text.count("Prefect has no whole record") == 1 and "Traceback" not in text and pippa.left() == []
    ballast.unlink()
    assert pippa.train("--max-steps", "8").wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.states()[pippa.run_id] == "COMPLETED"
