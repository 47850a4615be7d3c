from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from trainer.errors import DamagedObjectError
from trainer.store import jobs


def test_a_job_is_one_run_however_often_and_on_how_many_machines_it_starts(object_store):
    assert jobs.find(object_store, "sky-managed-1") is None
    with ThreadPoolExecutor(8) as machines:
        found = set(machines.map(lambda _: jobs.run_of(object_store, "sky-managed-1", "blog"), range(8)))
    assert found == {jobs.find(object_store, "sky-managed-1")} and next(iter(found)).startswith("blog-")
    assert jobs.run_of(object_store, "sky-managed-2", "blog") not in found


def test_a_damaged_job_is_named(object_store):
    jobs.run_of(object_store, "../../a job", "blog")
    (found,) = object_store.list("jobs/")
    object_store.write_bytes(found.key, b'{"job": "a", "run_id": "../elsewhere"}')
    with pytest.raises(DamagedObjectError, match="jobs/"):
        jobs.run_of(object_store, "../../a job", "blog")
