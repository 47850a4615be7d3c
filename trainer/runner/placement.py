"""A run that goes on with another number of GPUs or machines than it began with."""

from __future__ import annotations

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.flags import validated
from trainer.config.n17_config import N17Config
from trainer.config.run_spec import RunSpec
from trainer.errors import UsageError

DEVICE_FIELDS = ("num_gpus", "num_nodes")
"""What may be given beside the id of a run to continue."""


def placed(spec: RunSpec, devices: dict[str, object], prog: str) -> tuple[RunSpec, str]:
    """``spec`` on ``devices``, values of ``DEVICE_FIELDS``, and what that changes; empty where nothing does.

    The global batch stays, so that a step means what it meant: fewer GPUs accumulate more. Raises ``UsageError`` where
    it can't stay.
    """
    before = spec.config
    # First what was typed; the rest of the configuration follows from it.
    numbers = {**{name: getattr(before, name) for name in DEVICE_FIELDS}, **devices}
    asked = validated(FinetuneConfig, {"dataset_path": ["any"], **numbers}, prog)
    per_pass = before.batch_size * asked.processes
    if before.global_batch % per_pass:
        raise UsageError(
            f"{spec.run_id} has a global batch of {before.global_batch}, which {asked.processes} processes of "
            f"{before.batch_size} samples each can't make.",
            f"Take a number of GPUs that divides {before.global_batch // before.batch_size}.",
        )
    steps = before.global_batch // per_pass
    update: dict[str, object] = {name: getattr(asked, name) for name in DEVICE_FIELDS}
    update["gradient_accumulation_steps"] = steps
    if isinstance(before, N17Config):  # its batch of each GPU is derived
        update["global_batch_size"] = per_pass
    config = before.model_copy(update=update)
    if config.processes == before.processes:
        return spec.model_copy(update={"config": config}), ""
    change = (
        f"{config.processes} process{'es' if config.processes > 1 else ''} in place of {before.processes}: "
        f"--gradient-accumulation-steps {steps} in place of {before.gradient_accumulation_steps} keeps the global "
        f"batch of {before.global_batch}."
    )
    return spec.model_copy(update={"config": config}), change
