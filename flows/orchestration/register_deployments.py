"""Registers the table of ``deployments`` with a Prefect server: work pool, queues, deployments, schedules."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    VariableCreate,
    VariableUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from flows.orchestration.deployments import QUEUES, TAG, Deployment, Timetable, flow_name
from flows.orchestration.parameters import brought_up_to_date
from flows.orchestration.prefect_client import unless_there
from trainer.version import git_sha, version

# Without a command, Prefect's process worker copies the flow's code to a workspace and looks for a project
# to install; the code lies in the image.
COMMAND = "python -m prefect.engine"
SCHEDULED = "pippa_schedules"
"""The variable of the server that says which schedules pippa registered."""
DESCRIPTION = "Runs pippa's flows on the machines that have a `pippa worker`; trainings run in containers beside it."


def register(
    client: SyncPrefectClient, table: Sequence[Deployment], schedules: Sequence[Timetable], pool: str
) -> list[str]:
    """Make the server have exactly the deployments of ``table``, in ``pool``; returns the names of those removed.

    Deployments and schedules that pippa did not register, and what was switched in Prefect's UI, stay.
    """
    ensure_pool(client, pool)
    registered = _registered(client)
    flows = {flow_name(each): client.create_flow_from_name(flow_name(each)) for each in table}
    kept: set[UUID] = set()
    for each in table:
        name = f"{flow_name(each)}/{each.name}"
        deployment_id = _deploy(client, each, flows[flow_name(each)], pool)
        kept.add(deployment_id)
        timetables = [one for one in schedules if one.deployment == name]
        _schedule(client, deployment_id, timetables, registered.get(name, []))
    _remember(client, schedules)
    return _prune(client, pool, kept)


def ensure_pool(client: SyncPrefectClient, pool: str) -> None:
    """The work pool and its queues, made or brought up to date; pauses and limits set in the UI stay."""
    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(
            WorkPoolCreate(name=pool, type="process", base_job_template=template, description=DESCRIPTION)
        )
    except ObjectAlreadyExists:
        client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template, description=DESCRIPTION))
    for name, description in QUEUES.items():
        try:
            client.create_work_queue(name, description=description, work_pool_name=pool)
        except ObjectAlreadyExists:
            queue = client.read_work_queue_by_name(name, work_pool_name=pool)
            client.update_work_queue(queue.id, description=description)


def code_version() -> str:
    """What the UI shows as a deployment's version: pippa's, and its commit."""
    sha = git_sha()
    return version() + (f"+{sha[:12]}" if sha else "")


def _deploy(client: SyncPrefectClient, deployment: Deployment, flow_id: UUID, pool: str) -> UUID:
    schema = parameter_schema(load_flow_from_entrypoint(deployment.entrypoint)).model_dump()
    fields = {
        "version": code_version(),
        "description": deployment.description,
        "tags": [TAG, *deployment.tags],
        "parameters": deployment.parameters,
        "parameter_openapi_schema": deployment.schema(schema),
        "enforce_parameter_schema": True,
        "entrypoint": deployment.entrypoint,
        "job_variables": {"command": COMMAND},
        "pull_steps": [],
        "work_pool_name": pool,
        "work_queue_name": deployment.queue,
    }
    try:
        known = client.read_deployment_by_name(f"{flow_name(deployment)}/{deployment.name}")
    except ObjectNotFound:
        return client.create_deployment(flow_id, deployment.name, **fields)
    # Creating it again would drop the schedules made in the UI.
    client.update_deployment(known.id, DeploymentUpdate.model_validate(fields))
    return known.id


def _schedule(
    client: SyncPrefectClient, deployment_id: UUID, wanted: Sequence[Timetable], registered: Sequence[str]
) -> None:
    """Make the deployment have the schedules ``wanted``; of others only those go whose slug is ``registered``.

    Parameters that an earlier pippa or its user stored are brought into the form of today.
    """
    there = client.read_deployment_schedules(deployment_id)
    for each in there:
        if (parameters := brought_up_to_date(each.parameters)) != each.parameters:
            client.update_deployment_schedule(deployment_id, each.id, parameters=parameters)
            each.parameters = parameters
    known = {found.slug: found for found in there if found.slug}
    for each in wanted:
        parameters = brought_up_to_date(each.parameters)
        if (found := known.pop(each.slug, None)) is None:
            create = DeploymentScheduleCreate(
                schedule=each.when, active=each.active, parameters=parameters, slug=each.slug
            )
            with unless_there():
                client.create_deployment_schedules(deployment_id, [create])
        elif (found.schedule, found.parameters) != (each.when, parameters):
            client.update_deployment_schedule(
                deployment_id, found.id, schedule=each.when, parameters=parameters, slug=each.slug
            )
    for slug in registered:
        if gone := known.get(slug):
            client.delete_deployment_schedule(deployment_id, gone.id)


def _registered(client: SyncPrefectClient) -> dict[str, list[str]]:
    """The slugs of the schedules that pippa registered last, by deployment; a person may give theirs one too."""
    found = client.read_variable_by_name(SCHEDULED)
    return found.value if found is not None and isinstance(found.value, dict) else {}


def _remember(client: SyncPrefectClient, schedules: Sequence[Timetable]) -> None:
    slugs: dict[str, list[str]] = {}
    for each in schedules:
        slugs.setdefault(each.deployment, []).append(each.slug)
    if client.read_variable_by_name(SCHEDULED) is None:
        with unless_there():
            client.create_variable(VariableCreate(name=SCHEDULED, value=slugs))
    else:
        client.update_variable(VariableUpdate(name=SCHEDULED, value=slugs))


def _prune(client: SyncPrefectClient, pool: str, kept: set[UUID]) -> list[str]:
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    gone = [
        found
        for found in client.read_deployments(deployment_filter=ours)
        if found.work_pool_name == pool and found.id not in kept
    ]
    removed = [f"{client.read_flow(found.flow_id).name}/{found.name}" for found in gone]
    for found in gone:
        client.delete_deployment(found.id)
    return removed
