"""Which run a scheduler's job is: the job started again elsewhere, and each of its machines, means the same one.

``jobs/<hash of its id>.json``, written once by whichever process comes first.
"""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.config.run_spec import RUN_ID, new_run_id
from trainer.store.object_store import ObjectStore, damaged
from trainer.wrong_values import first_problem

_JOBS = "jobs/"


class JobRun(BaseModel):
    """The run of a job."""

    model_config = ConfigDict(frozen=True)

    job: str
    run_id: str = Field(pattern=rf"^{RUN_ID.pattern}$")


def find(store: ObjectStore, job: str) -> str | None:
    """The run of ``job``; None before there is one. Raises ``DamagedObjectError``."""
    key = _key(job)
    document = store.read_json(key)
    if document is None:
        return None
    try:
        return JobRun.model_validate(document).run_id
    except ValidationError as error:
        raise damaged(key, first_problem(error, JobRun)) from error


def run_of(store: ObjectStore, job: str, name: str) -> str:
    """The run of ``job``, which begins here if need be: a new id that begins with ``name``."""
    started = JobRun(job=job, run_id=new_run_id(name))
    store.write_json(_key(job), started.model_dump(), if_absent=True)
    return find(store, job) or started.run_id


def _key(job: str) -> str:
    return f"{_JOBS}{hashlib.sha256(job.encode()).hexdigest()[:32]}.json"
