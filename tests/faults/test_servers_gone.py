"""The store's folder goes away or takes nothing any more while a training runs, and comes back."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.waiting import PATIENCE, until


def test_a_store_whose_folder_goes_away_costs_no_checkpoint(pippa):
    process = pippa.train("--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    store, away = pippa.home / "store", pippa.home / "unmounted"
    store.rename(away)
    pippa.go_on()
    pippa.wait_for("can't be uploaded yet", process)
    assert f"The object store {store} is gone" in pippa.output.read_text() and not store.exists()
    away.rename(store)
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12] and pippa.left() == []


@pytest.mark.slow
def test_a_store_that_stays_away_ends_with_4_and_names_the_local_path(pippa):
    pippa.environ["PIPPA_UPLOAD_PATIENCE"] = "2"
    process = pippa.train("--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    store, away = pippa.home / "store", pippa.home / "unmounted"
    store.rename(away)
    pippa.go_on()
    assert process.wait(PATIENCE) == 4, pippa.output.read_text()
    text = pippa.output.read_text()
    assert "pending-uploads" in text and "Traceback" not in text and pippa.left() == []
    away.rename(store)
    assert pippa.start("runs", "resume", pippa.run_id).wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12]


@pytest.mark.slow
def test_a_store_that_becomes_read_only_costs_no_checkpoint(pippa, small_disk):
    store = small_disk(pippa.home / "store", "8m")
    process = pippa.train("--save-steps", "4", "--max-steps", "12")
    pippa.wait_for_pause(process)
    until(lambda: pippa.steps(pippa.run_id) == [4])
    subprocess.run(["mount", "-o", "remount,ro", str(store)], check=True)
    pippa.go_on()
    pippa.wait_for("can't be uploaded yet", process)
    subprocess.run(["mount", "-o", "remount,rw", str(store)], check=True)
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    assert pippa.steps(pippa.run_id) == [4, 8, 12] and pippa.left() == []
