"""A run that continues with another number of GPUs or machines than it began with, or with FSDP where it had none."""

from __future__ import annotations

from trainer.config.flags import validated
from trainer.config.run_spec import RunSpec
from trainer.errors import UsageError

DEVICE_FIELDS = ("num_gpus", "num_nodes", "fsdp", "fsdp_devices")
"""What may be given beside the id of a run to continue."""


def placed(spec: RunSpec, devices: dict[str, object], prog: str) -> tuple[RunSpec, str]:
    """``spec`` on ``devices``, values of ``DEVICE_FIELDS``, and what that changes; empty where nothing does.

    The global batch stays, so that a step means what it meant: fewer GPUs accumulate more. Raises ``UsageError`` where
    it can't stay.
    """
    before = spec.config
    config = validated(type(before), {**before.model_dump(exclude={"fsdp_devices"}), **devices}, prog)
    group = before.fsdp_devices
    if "fsdp_devices" not in devices and group and config.fsdp and config.processes % group == 0:
        # Otherwise all GPUs divide the model: nothing needs less memory.
        config = config.model_copy(update={"fsdp_devices": group})
    config = config.with_batch_size(before.batch_size)  # what each GPU takes stays, and with it the memory
    if config.processes == before.processes:
        return spec.model_copy(update={"config": config}), ""
    per_pass = config.batch_size * config.processes
    if before.global_batch % per_pass:
        raise UsageError(
            f"{spec.run_id} has a global batch of {before.global_batch}, which {config.processes} processes of "
            f"{config.batch_size} samples each can't make.",
            f"Take a number of GPUs that divides {before.global_batch // config.batch_size}.",
        )
    steps = before.global_batch // per_pass
    config = config.model_copy(update={"gradient_accumulation_steps": steps})
    change = (
        f"{config.processes} process{'es' if config.processes > 1 else ''} in place of {before.processes}: "
        f"--gradient-accumulation-steps {steps} in place of {before.gradient_accumulation_steps} keeps the global "
        f"batch of {before.global_batch}."
    )
    return spec.model_copy(update={"config": config}), change
