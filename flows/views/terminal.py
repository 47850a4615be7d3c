"""What a person sees of a training while it runs: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from trainer.disk import readable as size
from trainer.events import CheckpointEvent, ErrorEvent, EvaluationEvent, Event, PhaseEvent, ProgressEvent, WarningEvent

_LEVELS = "▁▂▃▄▅▆▇█"
PLAIN_SECONDS = 15.0
"""Without a terminal, progress is a line this often at most, and at every tenth of the way."""


class Terminal:
    """Shows events as they come; a context manager. Call it from one thread at a time."""

    def __init__(self, run_id: str, console: Console | None = None) -> None:
        self._run_id = run_id
        self._console = console or Console(highlight=False)
        self._progress = Progress(
            SpinnerColumn(style="cyan"),
            TextColumn("{task.description}"),
            _StepBar(),
            _Figures(),
            console=self._console,
            transient=True,
            refresh_per_second=4,
            # rich draws nothing but the last state into a file: there, plain lines come instead.
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._loss: float | None = None
        self._losses: list[float] = []
        self._counted: tuple[str, int | None] = ("", None)
        """The phase whose bar is shown, and of how many it is."""
        self._phase_began = time.monotonic()
        self._last_line = 0.0
        self._last_tenth = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show ``event``."""
        match event:
            case PhaseEvent():
                self._phase(event)
            case ProgressEvent():
                self._step(event)
            case CheckpointEvent():
                self.say(
                    f"[green]✓[/] checkpoint {self._run_id}/{event.step}: "
                    f"{size(event.bytes_uploaded)} uploaded in {event.seconds:.1f} s"
                )
            case EvaluationEvent():
                self.say(f"[green]✓[/] evaluation of step {event.step}: {escape(_figures_of(event))}")
            case WarningEvent():
                self.say(f"[yellow]![/] {escape(event.message)}")
                if event.hint:
                    self.say(f"  [dim]{escape(event.hint)}[/]")
            case ErrorEvent() | _:
                pass  # the summary at the end tells both

    def say(self, markup: str) -> None:
        """One line above the bar."""
        self._console.print(markup, soft_wrap=True)

    def _phase(self, event: PhaseEvent) -> None:
        text = f"{event.phase}: {event.message}" if event.message else event.phase
        self._loss = None
        if not self._console.is_terminal:
            self.say(escape(text))
            return
        if event.of is None or self._counted != (event.phase, event.of):
            if event.of is None or self._counted[1]:
                self._phase_began = time.monotonic()  # else with what came before the first of those counted
            self._counted = event.phase, event.of
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(escape(text), total=None)
        if event.done and event.of and self._task is not None:
            seconds = (time.monotonic() - self._phase_began) / event.done * (event.of - event.done)
            left = f"{duration(seconds)} left" if 0 < event.done < event.of else ""
            self._progress.update(
                self._task,
                description=event.phase,
                completed=event.done,
                total=event.of,
                figures=f"{left}\n{event.message}",
            )

    def _step(self, event: ProgressEvent) -> None:
        if event.loss is not None and event.loss != self._loss:
            self._losses.append(event.loss)
        self._loss = event.loss if event.loss is not None else self._loss
        if self._console.is_terminal:
            if self._task is None:
                self._task = self._progress.add_task("train")
            self._progress.update(
                self._task,
                description="train",
                completed=event.step,
                total=event.of,
                figures=_two_lines(event, self._loss, self._losses),
            )
            return
        tenth, now = 10 * event.step // max(event.of, 1), time.monotonic()
        if tenth > self._last_tenth or now - self._last_line > PLAIN_SECONDS:
            self._last_tenth, self._last_line = tenth, now
            self.say(f"step {event.step}/{event.of}  {figures(event, self._loss)}")


class _StepBar(ProgressColumn):
    """The bar, only where there is something to measure."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = BarColumn(bar_width=16)

    def render(self, task: Task) -> RenderableType:
        return self._bar.render(task) if task.total is not None else ""


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(duration(task.elapsed or 0), style="dim")
        return Text(f"{int(task.completed)}/{int(task.total)}  {task.fields.get('figures', '')}")


def _figures_of(event: EvaluationEvent) -> str:
    """The error of an evaluation on one line; all metrics where they are of another kind."""
    still, mse = event.metrics.get("open_loop_mse_over_hold_still"), event.metrics.get("open_loop_mse")
    if still is None or mse is None:
        return ", ".join(f"{name} {value:.4g}" for name, value in event.metrics.items())
    return f"open-loop MSE {mse:.4g}, {still:.0%} of holding still, on {event.on}"


def figures(event: ProgressEvent, loss: float | None) -> str:
    """Loss, learning rate, gradient norm, epoch, speed and what is left, as far as ``event`` knows."""
    return _joined(f"loss {loss:.4f}" if loss is not None else "", *_rates(event), _left(event))


def sparkline(values: Sequence[float], width: int = 8) -> str:
    """``values`` as a curve of at most ``width`` characters, each the mean of its share; on a scale of their own."""
    finite = [value for value in values if math.isfinite(value)]
    count = min(len(finite), width)
    shares = [finite[len(finite) * at // count : len(finite) * (at + 1) // count] for at in range(count)]
    means = [sum(share) / len(share) for share in shares]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join(
        _LEVELS[round((mean - low) / (high - low) * (len(_LEVELS) - 1))] if high > low else "" for mean in means
    )


def _two_lines(event: ProgressEvent, loss: float | None, losses: Sequence[float]) -> str:
    """What stands beside the bar, in 80 columns: the loss, its curve and what is left; below it the rates."""
    known = f"loss {loss:.4f} {sparkline(losses)}".rstrip() if loss is not None else ""
    return _joined(known, _left(event)) + "\n" + _joined(*_rates(event))


def _rates(event: ProgressEvent) -> Iterator[str]:
    yield f"lr {event.lr:.2g}" if event.lr is not None else ""
    yield f"grad norm {event.grad_norm:.2g}" if event.grad_norm is not None else ""
    yield f"epoch {event.epoch:.1f}" if event.epoch is not None else ""
    yield f"{event.samples_per_second:.1f} samples/s" if event.samples_per_second is not None else ""


def _left(event: ProgressEvent) -> str:
    return f"{duration(event.eta_seconds)} left" if event.eta_seconds is not None and event.step < event.of else ""


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


@contextmanager
def waiting(console: Console, text: str) -> Generator[None]:
    """A spinner with ``text`` while the block runs; without a terminal, one line."""
    if console.is_terminal:
        with console.status(escape(text), spinner_style="cyan"):
            yield
    else:
        console.print(escape(text))
        yield


def duration(seconds: float) -> str:
    """``0:42``, ``12:05``, ``3:00:10``."""
    whole = round(max(seconds, 0))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, what: str) -> str:
    """``1 episode``, ``1,200 episodes``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def task_text(text: str, most: int = 120) -> str:
    """An instruction in a list: in one line, and no longer than anybody reads there."""
    line = " ".join(text.split())
    return f"{line[:most].rstrip()} …" if len(line) > most else line or "(no instruction)"
