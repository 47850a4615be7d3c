"""Lets a training loop run a few steps at a time, so that loops in several processes can take turns.

Nothing of pippa is imported here: the loop of upstream runs in a separate environment. Protocol: the loop prints
what it trains at its first step, then for each line ``{"steps": N}`` on stdin trains N steps and prints what they
took. It ends with its stdin.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


class Gate:
    """Hooks into transformers' ``Trainer``, of whatever version: a step begins with ``training_step``.

    N steps are measured from the beginning of one to the beginning of the N-th after it: forward, backward, optimizer,
    callbacks and the loading of the next batch (there are no worker processes) are all in it.
    """

    def __init__(self, trainer_class: type) -> None:
        self.replies = sys.stdout
        sys.stdout = sys.stderr  # upstream prints, and our events go there
        self._left: int | None = None
        self._loading = self._work = 0.0
        self._losses: list[Any] = []
        self._imported_mb = 0.0
        self._hook(trainer_class)

    def imported(self) -> None:
        """Everything is imported, and nothing loaded yet: what the process takes now is not the training's."""
        self._imported_mb = peak_mb()

    def _hook(self, trainer_class: Any) -> None:
        step = trainer_class.training_step

        def training_step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self._begin(trainer)
            loss = step(trainer, *args, **kwargs)
            self._losses.append(loss.detach())
            return loss

        trainer_class.training_step = training_step
        trainer_class.get_batch_samples = self._timed(trainer_class.get_batch_samples, "_loading")
        trainer_class._prepare_inputs = self._timed(trainer_class._prepare_inputs, "_loading")

    def _hook_work(self, trainer: Any) -> None:
        """What a step can't do without is its work; what is left of it, but for the loading, is the trainer's own."""
        from torch.nn import utils

        utils.clip_grad_norm_ = self._timed(utils.clip_grad_norm_, "_work")
        trainer.compute_loss = self._timed(trainer.compute_loss, "_work")
        trainer.accelerator.backward = self._timed(trainer.accelerator.backward, "_work")
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        optimizer.step = self._timed(optimizer.step, "_work")

    def _timed(self, function: Callable[..., Any], account: str) -> Callable[..., Any]:
        # Wrapped: torch's scheduler looks at the optimizer's step.
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                setattr(self, account, getattr(self, account) + time.perf_counter() - began)

        return timed

    def _begin(self, trainer: Any) -> None:
        if self._left is None:
            self._hook_work(trainer)
            parameters = list(trainer.model.parameters())
            trained = sum(each.numel() for each in parameters if each.requires_grad)
            total = sum(each.numel() for each in parameters)
            self._reply({"parameters": total, "trained": trained, "imported_mb": self._imported_mb})
        elif self._left:
            self._left -= 1
            return
        else:
            self._reply(
                {
                    "seconds": time.perf_counter() - self._began,
                    "cpu_seconds": time.process_time() - self._cpu,
                    "loading_seconds": self._loading,
                    "work_seconds": self._work,
                    "losses": [float(loss) for loss in self._losses],
                    "peak_mb": peak_mb(),
                }
            )
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # the training is not to be finished: no checkpoint, no final model
        self._left = json.loads(line)["steps"] - 1
        self._loading, self._work, self._losses = 0.0, 0.0, []
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def _reply(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self.replies, flush=True)


def peak_mb() -> float:
    """The most memory this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
