"""Upstream's training loop of N1.7 as a ``bench.step.Loop``: its model, collator and ``Gr00tTrainer``, on the CPU.

The samples are some of the first shard, processed before the first step and kept in memory: upstream's best case.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.loops.gate import Gate
from bench.upstream_n17.environment import arguments, pipeline

SPLITS = 2
"""Of the tenths of episodes that a shard is made of: enough samples to train on in turn."""


def main() -> None:
    """Train until stdin ends."""
    given = arguments().parse_args()
    import transformers

    gate = Gate(transformers.Trainer)
    made = pipeline(given)
    from gr00t.experiment.trainer import Gr00tTrainer  # type: ignore[import-not-found]

    gate.imported()
    transformers.set_seed(42)
    made.setup()
    dataset = made.train_dataset.datasets[0]
    dataset.sharded_episodes[0] = dataset.sharded_episodes[0][:SPLITS]
    samples = dataset.get_shard(0)
    config = made.config.training
    trainer = Gr00tTrainer(
        model=made.model,
        args=transformers.TrainingArguments(
            output_dir=str(given.output),
            max_steps=10_000,
            per_device_train_batch_size=given.batch,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.lr_scheduler_type,
            weight_decay=config.weight_decay,
            warmup_ratio=config.warmup_ratio,  # type: ignore[call-arg]  # transformers 4 has it
            max_grad_norm=config.max_grad_norm,
            logging_steps=config.logging_steps,
            optim="adamw_torch",
            remove_unused_columns=False,
            use_cpu=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            seed=42,
        ),
        train_dataset=samples * (10_000 * given.batch // len(samples) + 1),
        data_collator=made.data_collator,
    )
    trainer.train()


if __name__ == "__main__":
    main()
