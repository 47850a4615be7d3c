"""transformers' ``Trainer``, changed where upstream changes it and where a lost power cord must not cost a run."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_parameter_names

from trainer.data.collate import Collator
from trainer.data.dataset import TrainingDataset
from trainer.failures import disk_full
from trainer.gr00t.lora import ADAPTER, merged_state, save_adapter
from trainer.gr00t.model import GR00TN15
from trainer.gr00t.processor import EagleProcessor
from trainer.gr00t.weights import save_checkpoint
from trainer.training.noise import draw_noise
from trainer.training.sampler import EpochSampler

CHECKPOINTS_KEPT = 5
"""Complete checkpoints kept on disk, as upstream's ``save_total_limit``; the object store keeps them all."""

_STAGING = ".saving"
_NO_SPACE = 1 << 20
"""Bytes; a disk with less is full, whatever the error says."""


class _TellEpoch(TrainerCallback):
    """Tells the sampler (order) and the dataset (augmentation, draws from a mixture) which epoch begins."""

    def __init__(self, sampler: EpochSampler, dataset: TrainingDataset) -> None:
        self._sampler = sampler
        self._dataset = dataset

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # state.epoch counts epochs taken, in fractions: whole at the start of an epoch, in between after a resume.
        epoch = int(state.epoch or 0)
        self._sampler.set_epoch(epoch)
        self._dataset.set_epoch(epoch)


class _CountBatches(TrainerCallback):
    """Counts the micro-batches of an optimizer step."""

    def __init__(self) -> None:
        self.taken = 0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.taken = 0


class FinetuneTrainer(Trainer):
    """Trains a ``GR00TN15`` as upstream's ``DualBrainTrainer`` does (``gr00t/experiment/trainer.py``).

    A checkpoint appears under its final name ``checkpoint-<step>`` only when it is complete: transformers writes in
    place, so that a crash while saving leaves a torn folder that ``--resume`` then picks.

    Args:
        processor: Its files are saved beside the weights, so that a checkpoint is a base model and a policy by itself.
        experiment_cfg: Folder copied into each checkpoint (``metadata.json``, which upstream's policy needs).
        lora: Whether ``model`` has adapters (``trainer.gr00t.lora``), which are saved merged and by themselves.

    """

    def __init__(
        self,
        *,
        model: GR00TN15,
        args: TrainingArguments,
        train_dataset: TrainingDataset,
        processor: EagleProcessor,
        experiment_cfg: Path,
        callbacks: list[TrainerCallback],
        lora: bool = False,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=Collator(processor),
            callbacks=callbacks,
        )
        self._groot = model
        self._lora = lora
        self._dataset = train_dataset
        self._output_dir = Path(args.output_dir or ".")
        # It prints on stdout, which belongs to the events.
        self.remove_callback(PrinterCallback)
        self._processor = processor
        self._experiment_cfg = experiment_cfg
        self._saving = False
        self._micro_batches = _CountBatches()
        self.add_callback(self._micro_batches)
        # Dropout must differ between the ranks; what has to be equal (model, noise, order) doesn't depend on this.
        torch.manual_seed(args.seed + args.process_index)
        # Left by a save that was cut short; never a checkpoint.
        if self.args.should_save:
            shutil.rmtree(self._output_dir / _STAGING, ignore_errors=True)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The training batches. Their loader draws its own seed for its workers from a generator of its own.

        From the global one it would draw once per epoch, or once per start where workers persist: the random state, and
        with it the dropout, would depend on the number of workers and on where a run was resumed.
        """
        loader = super().get_train_dataloader()
        generator = torch.Generator().manual_seed(self.args.seed)
        # accelerate's wrapper iterates the loader in it, but makes the one that skips batches from its own attributes.
        for each in (loader, getattr(loader, "base_dataloader", loader)):
            each.generator = generator
            if self.args.world_size > 1:
                each.worker_init_fn = _leave_process_group
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        sampler = EpochSampler(len(self._dataset), self.args.seed)
        self.add_callback(_TellEpoch(sampler, self._dataset))
        return sampler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Parameters weight decay applies to: transformers 4.51's rule, which upstream trains with.

        Newer versions also spare every name with ``norm`` in it, among them Qwen3's RMSNorm weights.
        """
        return [name for name in get_parameter_names(model, [nn.LayerNorm]) if "bias" not in name]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The flow-matching loss of one batch; the model takes the batch as one dict, as upstream's does."""
        batch, ranks = self.args.per_device_train_batch_size, self.args.world_size
        noise, time = draw_noise(
            self._groot.action_head,
            inputs["action"],
            seed=self.args.seed,
            step=self.state.global_step,
            first=(self._micro_batches.taken * ranks + self.args.process_index) * batch,
            samples_per_step=batch * ranks * self.args.gradient_accumulation_steps,
        )
        self._micro_batches.taken += 1
        outputs = model(inputs, noise, time)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Zero: transformers' estimate knows language models only."""
        return 0

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / _STAGING) if self._saving else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        output_dir = self._output_dir
        if (output_dir / name).is_dir():
            # A run resumed at its last step, or stopped right after a save.
            return
        self._saving = True
        staged = output_dir / _STAGING / name
        with _disk_full_explained(output_dir):
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saving = False
            if self.args.world_size > 1:
                # Every rank writes its own random state into the staging folder.
                torch.distributed.barrier()
            if not self.args.should_save:
                return
            shutil.copytree(self._experiment_cfg, staged / "experiment_cfg", dirs_exist_ok=True)
            _sync(staged)
        staged.rename(output_dir / name)
        _sync_folder(output_dir)
        (output_dir / _STAGING).rmdir()
        self._remove_old_checkpoints(output_dir)

    def _remove_old_checkpoints(self, output_dir: Path) -> None:
        steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in output_dir.glob("checkpoint-*"))
        for step in steps[:-CHECKPOINTS_KEPT]:
            # Renamed first: a half-deleted checkpoint must not be found by --resume either.
            doomed = output_dir / f".removing-{step}"
            (output_dir / f"checkpoint-{step}").rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir) if output_dir else self._output_dir
            if self._lora:
                state, changing = merged_state(self._groot)
                save_checkpoint(self._groot, folder, state_dict=state, trained=changing)
                save_adapter(self._groot, folder / ADAPTER)
            else:
                save_checkpoint(self._groot, folder)
            self._processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Nothing: the engine loads a resumed model from its checkpoint to begin with."""

    def save_final(self) -> None:
        """Leave the final model in the output folder itself, where upstream leaves it.

        The files are hard links to those of the last checkpoint where the file system has them: no second copy.
        """
        if not self.args.should_save:
            return
        last = self._output_dir / f"checkpoint-{self.state.global_step}"
        for file in (*last.iterdir(), *last.glob(f"{ADAPTER}/*")):
            if file.is_file() and file.suffix in {".json", ".safetensors"}:
                _link_or_copy(file, self._output_dir / file.relative_to(last))


def _leave_process_group(_worker: int) -> None:
    """Runs in each data loading process. torchrun stops a rank by a signal to its whole process group; loading has to
    go on until the rank has finished its step and saved. A rank that is killed takes its loaders with it all the same.
    """
    os.setpgid(0, 0)


@contextlib.contextmanager
def _disk_full_explained(output_dir: Path) -> Iterator[None]:
    """Turns what a full disk looks like while saving into ``DiskFullError``, and removes what was half saved.

    safetensors raises an error class of its own, and torch.save one that doesn't mention the disk at all ("unexpected
    pos 576 vs 534"), so that only the free space tells.
    """
    try:
        yield
    except Exception as error:
        full = "No space left on device" in str(error) or shutil.disk_usage(output_dir).free < _NO_SPACE
        shutil.rmtree(output_dir / _STAGING, ignore_errors=True)
        if full:
            raise disk_full(output_dir) from error
        raise


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _sync(folder: Path) -> None:
    """Push every file of ``folder`` to the disk, so that the rename can't overtake the contents."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
