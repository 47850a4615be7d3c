"""transformers' ``Trainer``, changed where upstream changes it and where a lost power cord must not cost a run."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_parameter_names

from trainer.config.finetune_config import CHECKPOINTS_KEPT
from trainer.errors import UsageError
from trainer.events import Event, SavedEvent
from trainer.generation import generation_of
from trainer.gr00t.lora import adapter_state, merged_state, save_adapter
from trainer.gr00t.weight_files import ADAPTER
from trainer.gr00t.weights import GrootModel, save_checkpoint, trained_state
from trainer.training.checkpoints import STAGING, CheckpointWriter, leave_final_model
from trainer.training.host_copies import HoldOptimizer, HostCopies
from trainer.training.noise import draw_noise
from trainer.training.sampler import EpochSampler
from trainer.training.sharding import Shards, clip_gradients


class TrainingData(Protocol):
    """A dataset of any generation."""

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Processor(Protocol):
    """What is saved beside the weights, so that a checkpoint is a base model and a policy by itself."""

    def save_pretrained(self, folder: Path, same_as: Path | None = None) -> None:
        """Write its files; ``same_as`` is a folder where they are already."""
        ...


class _TellEpoch(TrainerCallback):
    """Tells the sampler (order) and the dataset (augmentation, draws from a mixture) which epoch begins."""

    def __init__(self, sampler: EpochSampler, dataset: TrainingData) -> None:
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


class _TellOfFailedSave(TrainerCallback):
    """Ends the training soon after a checkpoint could not be written, not only when the next one is due."""

    def __init__(self, writer: CheckpointWriter) -> None:
        self._writer = writer

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._writer.check()


class FinetuneTrainer(Trainer):
    """Trains a model of any generation as upstream's ``DualBrainTrainer`` does (``gr00t/experiment/trainer.py``).

    A checkpoint is copied and written while the training continues (``trainer.training.checkpoints``).
    It appears under its final name ``checkpoint-<step>`` when it is complete; ``train`` returns after the last one has.

    Args:
        data_collator: Makes the model's inputs of samples.
        processor: Its files are saved beside the weights.
        experiment_cfg: Folder copied into each checkpoint (``metadata.json``, which upstream's policy of N1.5 needs).
        emit: Hears of every checkpoint that is complete.
        lora: Whether ``model`` has adapters (``trainer.gr00t.lora``), which are saved merged and by themselves.
        shards: Processes that divide a copy of the model between them; 1 for none (``trainer.training.sharding``).
        kept: Checkpoints that stay on the disk.
        finish_images: What is left to do for the images of a batch, on the device it has arrived on.

    """

    def __init__(
        self,
        *,
        model: GrootModel,
        args: TrainingArguments,
        train_dataset: TrainingData,
        data_collator: Callable[[Any], dict[str, Any]],
        processor: Processor,
        experiment_cfg: Path | None,
        callbacks: list[TrainerCallback],
        emit: Callable[[Event], None] = lambda _: None,
        lora: bool = False,
        shards: int = 1,
        kept: int = CHECKPOINTS_KEPT,
        finish_images: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch,
    ) -> None:
        self._divided = shards > 1
        super().__init__(
            model=model,
            args=args,
            train_dataset=cast("Dataset[Any]", train_dataset),
            data_collator=data_collator,
            callbacks=callbacks,
        )
        self._groot = model
        generation = generation_of({"model_type": model.config.model_type}, "The model")
        self._undecayed = generation.undecayed if generation else ()
        self._adapted = model if lora else None
        self._dataset = train_dataset
        self._finish_images = finish_images
        self._output_dir = Path(args.output_dir or ".")
        # It prints on stdout, which belongs to the events.
        self.remove_callback(PrinterCallback)
        self._processor = processor
        self._experiment_cfg = experiment_cfg
        self._writer = CheckpointWriter(self._output_dir, lambda step: emit(SavedEvent(step=step)), kept)
        self._copies = HostCopies()
        self._parts: list[Callable[[], object]] | None = None
        """While a checkpoint is taken: what is left to be written of it."""
        # What is on the disk can't be asked while training: the ranks would see the writer's rename at different times.
        self._saved = {path.name for path in self._output_dir.glob("checkpoint-*")}
        self.add_callback(_TellOfFailedSave(self._writer))
        self.add_callback(HoldOptimizer(self._copies))
        self._micro_batches = _CountBatches()
        self.add_callback(self._micro_batches)
        self._shards = Shards(model, args.device, shards, keeps=args.should_save) if self._divided else None
        # transformers' word for a model that it shall neither wrap nor move.
        self.is_distributed_loading_by_transformers = self._divided
        # Dropout must differ between the ranks; what has to be equal (model, noise, order) doesn't depend on this.
        torch.manual_seed(args.seed + args.process_index)
        model.train()
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # transformers calls it at each step; torch's own walks through every module, the frozen ones too.
        model.zero_grad = partial(_drop_gradients, self._trained)
        # Left by a save that was cut short; never a checkpoint.
        if self.args.should_save:
            shutil.rmtree(self._output_dir / STAGING, ignore_errors=True)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """With FSDP, each part of it where it is divided: the whole may not fit."""
        if not self._divided:
            super()._move_model_to_device(model, device)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The training batches. Their loader draws its own seed for its workers from a separate generator.

        From the global one it would draw once per epoch, or once per start where workers persist: the random state, and
        with it the dropout, would depend on the number of workers and on where a run was resumed.
        """
        loader = super().get_train_dataloader()
        generator = torch.Generator().manual_seed(self.args.seed)
        # accelerate's wrapper iterates the loader in it, but makes the one that skips batches from its own attributes.
        for each in (loader, getattr(loader, "base_dataloader", loader)):
            each.generator = generator
            each.device = None  # ``_prepare_input`` moves batches
            if self.args.world_size > 1:
                each.worker_init_fn = _leave_process_group
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        sampler = EpochSampler(len(self._dataset), self.args.seed)
        self.add_callback(_TellEpoch(sampler, self._dataset))
        return sampler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Parameters weight decay applies to, by the rule of the transformers that upstream trains with.

        For N1.5 that is 4.51's. Newer versions, such as N1.7's, also spare every name with ``norm`` in it, among them
        Qwen3's RMSNorm weights.
        """
        return get_parameter_names(model, [nn.LayerNorm], list(self._undecayed))

    def _prepare_input(self, data: Any) -> Any:
        """Move a batch to the training's device without waiting for it.

        accelerate's loader would do it, but the one it makes to skip what a resumed run has seen waits at each batch.
        """
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Images are resized and jittered here, where the batch has arrived on the device."""
        return self._finish_images(super()._prepare_inputs(inputs))

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

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Forward and backward of one micro-batch; returns its loss.

        transformers' own calls ``model.train()`` at each step: a walk through every module, which takes as long as
        launching a third of the kernels. Here the mode is set once, when the trainer is made.
        """
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs) / self.current_gradient_accumulation_steps
        self.accelerator.backward(loss)
        return loss.detach()

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """Clip the gradients and return their norm; accelerate compares every parameter of the model first."""
        return clip_gradients(self._trained, self.args.max_grad_norm)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Zero: transformers' estimate knows language models only."""
        return 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; returns when the last checkpoint is complete, also when the training ends by an error.

        Raises ``UsageError`` for a checkpoint whose training state is more than tensors and numbers: unpickling such a
        file could run any code, so transformers loads it with ``weights_only``.
        """
        try:
            return super().train(*args, **kwargs)
        except pickle.UnpicklingError as error:
            detail = str(error).partition("\n")[0]
            raise UsageError(
                f"The training state of the checkpoint to continue from can't be loaded: {detail}",
                "Its optimizer.pt, scheduler.pt or rng_state.pth is damaged, or was not written by a training. Resume "
                "from a checkpoint that you trust; nothing of it was run.",
            ) from None
        finally:
            self._writer.wait()

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return folder if self._parts is None else str(Path(folder) / STAGING)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        if name in self._saved:
            # A run resumed at its last step, or stopped right after a save.
            return
        # The copies of the one before are in use until it is written.
        self._writer.wait()
        self._parts = parts = []
        with self._writer.explained():
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._parts = None
        if self.args.world_size > 1:
            # Every rank writes its own random state into the staging folder.
            torch.distributed.barrier()
        self._saved.add(name)
        if self.args.should_save:
            if self._experiment_cfg is not None:
                experiment_cfg = self._writer.staged(name) / "experiment_cfg"
                parts.append(partial(shutil.copytree, self._experiment_cfg, experiment_cfg, dirs_exist_ok=True))
            self._copies.begin()
            self._writer.start(name, [partial(self._write_copied, parts)])

    @cached_property
    def _weights(self) -> tuple[dict[str, torch.Tensor], set[str]]:
        """Walking through every module takes as long as copying a small one's weights; they stay the same tensors."""
        return trained_state(self._groot)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        whole = self._shards.weights() if self._shards else None
        if not self.args.should_save:
            return
        folder = Path(output_dir) if output_dir else self._output_dir
        folder.mkdir(parents=True, exist_ok=True)
        state, trained = self._weights if self._adapted is None else merged_state(self._adapted, whole)
        if whole is not None and self._adapted is None:
            state = whole
        # Frozen parameters don't change while they are written.
        copied = self._copied("weights", {name: each for name, each in state.items() if name in trained})
        state = {name: copied.get(name, each) for name, each in state.items()}
        same = self._writer.last
        parts: list[Callable[[], object]] = [
            partial(save_checkpoint, self._groot, folder, state_dict=state, trained=trained, frozen_from=same),
            partial(self._processor.save_pretrained, folder, same_as=same),
        ]
        if self._adapted:
            adapter = self._copied(ADAPTER, adapter_state(self._adapted, whole))
            parts.append(partial(save_adapter, self._adapted, folder / ADAPTER, adapter))
        self._write(parts)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        optimizer, scheduler = self.optimizer, self.lr_scheduler
        if optimizer is None or scheduler is None:
            return
        whole = self._shards.optimizer_state(optimizer) if self._shards else None
        if self.args.should_save:
            state = whole or self._copies.take("optimizer", optimizer.state_dict())
            self._write([partial(torch.save, state, Path(output_dir) / "optimizer.pt")])
            torch.save(scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _save_rng_state(self, output_dir: str) -> None:
        """Each rank writes its own; those of other machines are sent to the one that keeps the checkpoint."""
        super()._save_rng_state(output_dir)
        if int(os.environ.get("GROUP_WORLD_SIZE", "1")) == 1:  # of torchrun: the number of nodes
            return
        ranks, here = self.args.world_size, int(os.environ["LOCAL_WORLD_SIZE"])
        own = Path(output_dir) / f"rng_state_{self.args.process_index}.pth"
        states: list[Any] = [None] * ranks
        torch.distributed.all_gather_object(states, own.read_bytes())
        if not self.args.should_save and int(os.environ["GROUP_RANK"]):
            own.unlink()
        elif self.args.should_save:
            for rank in range(here, ranks):
                own.with_name(f"rng_state_{rank}.pth").write_bytes(states[rank])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """With FSDP, each process takes its shards of the same files."""
        if self._shards is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer, scheduler = cast("Optimizer", self.optimizer), cast("LRScheduler", self.lr_scheduler)
        self._shards.load_optimizer(optimizer, Path(checkpoint) / "optimizer.pt")
        scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def _copied(self, name: str, tree: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What a tensor holds now, in host memory; what was gathered from shards is there already."""
        return tree if self._shards else self._copies.take(name, tree)

    def _write(self, parts: list[Callable[[], object]]) -> None:
        """Now, or as part of the checkpoint that is being taken."""
        if self._parts is not None:
            self._parts += parts
            return
        self._copies.begin()
        self._write_copied(parts)

    def _write_copied(self, parts: list[Callable[[], object]]) -> None:
        """Frozen weights still lie on the GPU, and are copied by the code that writes them."""
        self._copies.finish()
        with self._copies.beside():
            for part in parts:
                part()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Nothing: the engine loads a resumed model from its checkpoint to begin with."""

    def save_final(self) -> None:
        """Leave the final model in the output folder itself, where upstream leaves it."""
        if self.args.should_save:
            leave_final_model(self._output_dir, self._output_dir / f"checkpoint-{self.state.global_step}")


def _drop_gradients(trained: list[nn.Parameter]) -> None:
    """``zero_grad`` of a model of which only these parameters have gradients."""
    for parameter in trained:
        parameter.grad = None


def _leave_process_group(_worker: int) -> None:
    """Runs in each data loading process. torchrun stops a rank by a signal to its whole process group; loading has to
    go on until the rank has finished its step and saved. A rank that is killed takes its loaders with it all the same.
    """
    os.setpgid(0, 0)
