"""The store's folder goes away or takes nothing any more while a training runs, and comes back."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.waiting import PATIENCE, until


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_store_whose_folder_goes_away_costs_no_checkpoint(pippa):
    process = pippa.train("--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    store, away = pippa.home / "store", pippa.home / "unmounted"
    store.rename(away)
    pippa.go_on()
    pippa.wait_for("can't be uploaded yet", process)
    assert f"The object store {store} is not there" in pippa.output.read_text() and not store.exists()
    away.rename(store)
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12] and pippa.left() == []


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_store_that_stays_away_is_asked_again_and_the_local_path_is_named(pippa):
    pippa.environ["PIPPA_UPLOAD_PATIENCE"] = "2"
    process = pippa.train("--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    store, away = pippa.home / "store", pippa.home / "unmounted"
    store.rename(away)
    pippa.go_on()
    pippa.wait_for("Trying again in 5 s.", process)
    assert "They are safe in" in pippa.output.read_text() and "pending-uploads" in pippa.output.read_text()
    pippa.wait_for("Trying again in 20 s.", process)  # a trainer that starts without the store knows what is missing
    assert "There is no run" not in pippa.output.read_text()
    away.rename(store)
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12] and pippa.left() == []


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_store_that_becomes_read_only_costs_no_checkpoint(pippa, small_disk):
    store = small_disk(pippa.home / "store", "8m")
    process = pippa.train("--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    # Refused while anything there is open for writing, such as the run's log.
    until(lambda: subprocess.run(["mount", "-o", "remount,ro", str(store)], check=False).returncode == 0)
    pippa.go_on()
    pippa.wait_for("can't be uploaded yet", process)
    subprocess.run(["mount", "-o", "remount,rw", str(store)], check=True)
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12] and pippa.left() == []
