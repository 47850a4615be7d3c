"""A real S3 server is gone for minutes: what trains goes on and catches up, what gives up names its checkpoints.

``PIPPA_OUTAGE`` is how long it is gone, in seconds; longer where what happens meanwhile takes longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.pippa import BarePippa, bare_pippa
from tests.support.waiting import PATIENCE, until
from trainer.config.run_spec import RUN_ID
from trainer.config.settings import S3Settings
from trainer.runner.checkpoint_folder import checkpoints
from trainer.store import registry, runs, snapshots
from trainer.store.s3 import S3Store

OUTAGE = float(os.environ.get("PIPPA_OUTAGE", "180"))
"""Longer than any single request is repeated, and than the longest pause between two attempts at an upload: one takes
20 s, the other 30 s."""


def on_disk(pippa: BarePippa, run_id: str) -> list[int]:
    """The steps of the whole checkpoints in the engine's folder."""
    return sorted(step for each in (pippa.home / "runs" / run_id).glob("*/") for step in checkpoints(each))


@pytest.fixture
def way(s3_settings: S3Settings) -> Iterator[FaultProxy]:
    host, _, port = s3_settings.host.partition(":")
    with fault_proxy(host, int(port)) as found:
        yield found


@pytest.mark.slow
def test_a_store_that_is_gone_for_minutes_costs_no_checkpoint(way, s3_settings, tmp_path):
    """Three trainings at once.

    One by the real engine, which has an hour's patience; one with little, tried again until there is no further
    attempt; and one that somebody types meanwhile.
    """
    settings = s3_settings.model_copy(update={"endpoint": f"http://127.0.0.1:{way.port}"})
    store = S3Store(s3_settings)
    names = ("patient", "impatient", "late")
    for name in names:
        (tmp_path / name).mkdir()
    with (
        bare_pippa(tmp_path / "patient") as patient,
        bare_pippa(tmp_path / "impatient") as impatient,
        bare_pippa(tmp_path / "late") as late,
    ):
        for each in (patient, impatient, late):
            each.is_not_recorded()
            each.environ |= {**settings.to_environ(), "OMP_NUM_THREADS": "1"}
        for name in ("PIPPA_FINETUNE_COMMAND", "FAKE_ENGINE"):
            del patient.environ[name]
        impatient.environ["PIPPA_UPLOAD_PATIENCE"] = "5"

        def registered(pippa: BarePippa) -> list[int]:
            return sorted(entry.step for entry in registry.list_checkpoints(store, pippa.run_id))

        flags = ("--max-steps", "60", "--save-steps", "10", "--batch-size", "2", "--evaluate", "none")
        gives_up = impatient.train("--save-steps", "4", "--max-steps", "12")
        impatient.wait_for_pause(gives_up)
        until(lambda: registered(impatient) == [4], impatient.output.read_text)
        trains = patient.start("train", "smoke", *flags)  # it stands nowhere: the store has to go while it trains
        until(lambda: RUN_ID.search(patient.output.read_text()), alive=lambda: trains.poll() is None)
        until(lambda: 10 in registered(patient), patient.output.read_text, alive=lambda: trains.poll() is None)

        way.begin("down")
        began = time.monotonic()
        impatient.go_on()
        assert late.train("--max-steps", "2").wait(PATIENCE) == 4, late.output.read_text()
        text = late.output.read_text()
        assert settings.endpoint in text and "Traceback" not in text and late.left() == []
        # Its last step is reached without the store.
        until(lambda: on_disk(patient, patient.run_id)[-1:] == [60], patient.output.read_text)
        assert trains.poll() is None
        assert gives_up.wait(PATIENCE) == 4, impatient.output.read_text()
        text = impatient.output.read_text().partition("error: ")[2]
        assert "(step 8, 12)" in text and f"They are safe in {impatient.home / 'runs' / impatient.run_id}" in text
        assert impatient.output.read_text().count("Trying again in") == 3 and impatient.left() == []

        time.sleep(max(0.0, began + OUTAGE - time.monotonic()))
        assert trains.poll() is None and registered(impatient) == [4]
        way.end()
        del impatient.environ["PIPPA_UPLOAD_PATIENCE"]
        assert impatient.start("runs", "resume", impatient.run_id).wait(PATIENCE) == 0, impatient.output.read_text()
        assert trains.wait(PATIENCE) == 0, patient.output.read_text()
        text = patient.output.read_text()
        assert text.count("can't be uploaded yet") == 1 and "DROPPED" not in text and patient.left() == []
        assert registered(patient) == [10, 20, 30, 40, 50, 60] and registered(impatient) == [4, 8, 12]
        entries = registry.list_checkpoints(store)
        assert [snapshots.verify(store, entry.snapshot) for entry in entries] == [[]] * len(entries)
        # Both catch up at the same time, and either may be last.
        assert registry.resolve(store, "latest").name == max(entries, key=lambda entry: entry.created).name


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_bucket_that_is_deleted_and_made_again_gets_what_the_run_still_has(s3_settings, pippa):
    store = S3Store(s3_settings)
    pippa.environ |= s3_settings.to_environ()
    process = pippa.train("--save-steps", "4", "--max-steps", "12", "--evaluate", "none")
    pippa.wait_for_pause(process)
    until(lambda: registry.list_checkpoints(store), pippa.output.read_text)
    # The run goes on writing its state meanwhile.
    until(lambda: _removed(store))
    pippa.go_on()
    pippa.wait_for("There is no bucket", process)
    store.create()
    assert process.wait(PATIENCE) == 0, pippa.output.read_text()
    entries = registry.list_checkpoints(store)
    assert [entry.step for entry in entries] == [8, 12] and registry.resolve(store, "latest").step == 12
    assert [snapshots.verify(store, entry.snapshot) for entry in entries] == [[], []]
    assert [each.spec.run_id for each in runs.list_runs(store)] == [pippa.run_id]


def _removed(store: S3Store) -> bool:
    """Remove every object and the bucket; whether nobody has written anything in between."""
    from minio.error import S3Error

    for found in list(store.list("")):
        store.delete(found.key)
    try:
        store._client.remove_bucket(store.settings.bucket)
    except S3Error:
        return False
    return True
