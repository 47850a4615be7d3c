from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from flows.views.terminal import Terminal, duration, size, sparkline
from trainer.events import CheckpointEvent, EvaluationEvent, Event, PhaseEvent, ProgressEvent, WarningEvent

RUN = "smoke-20260101-000000-abcd"
EVENTS: list[Event] = [
    PhaseEvent(phase="train", message="20 steps."),
    *(
        ProgressEvent(
            step=step, of=20, loss=1 / step if step % 5 == 0 else None, samples_per_second=8.0, eta_seconds=70
        )
        for step in range(1, 21)
    ),
    CheckpointEvent(step=20, digest="0" * 64, bytes_uploaded=4_200_000, seconds=1.26),
    WarningEvent(message="a [red]warning[/red]", hint="and its hint"),
    EvaluationEvent(step=20, metrics={"open_loop_mse": 0.12345}),
]


def shown(*, terminal: bool) -> str:
    file = io.StringIO()
    with Terminal(RUN, Console(file=file, force_terminal=terminal, width=100, highlight=False)) as screen:
        for event in EVENTS:
            screen(event)
    return file.getvalue()


def test_without_a_terminal_come_plain_lines_now_and_then():
    text = shown(terminal=False)
    assert "\x1b" not in text and "\r" not in text
    steps = [line for line in text.splitlines() if line.startswith("step ")]
    assert len(steps) <= 11 and steps[-1] == "step 20/20  loss 0.0500  8.0 samples/s"
    assert "1:10 left" in steps[5]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_happens_once_is_said_in_either(terminal):
    text = shown(terminal=terminal)
    for word in (f"checkpoint {RUN}/20: 4.2 MB uploaded in 1.3 s", "a [red]warning[/red]", "open_loop_mse 0.1235"):
        assert word in text.replace("\x1b[0m", "").replace("\x1b[32m", ""), text


def test_in_a_terminal_the_bar_shows_step_loss_speed_and_time_left():
    text = shown(terminal=True)
    assert "20/20" in text and "loss 0.0500" in text and "8.0 samples/s" in text and "━" in text


def test_an_evaluation_has_a_bar_with_what_is_done_and_left():
    events = [
        PhaseEvent(phase="evaluate", message="Evaluating step 20 by the full protocol."),
        *(PhaseEvent(phase="evaluate", message=f"{RUN}/20: episode {n}: MSE 0.4", done=n, of=8) for n in range(1, 8)),
    ]
    for terminal in (True, False):
        file = io.StringIO()
        with Terminal(RUN, Console(file=file, force_terminal=terminal, width=80, highlight=False)) as screen:
            for event in events:
                screen(event)
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
        if terminal:
            assert re.search(r"evaluate ━+\S* *7/8  0:00 left *\n", text), text
        lines = [line for line in text.splitlines() if line]
        assert all(len(line) <= 80 for line in lines) and any("episode 7: MSE 0.4" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (10_810, "3:00:10"), (-3, "0:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (5_441_000_000, "5.4 GB"), (2e12, "2.0 TB")]
)
def test_sizes(count, text):
    assert size(count) == text


def test_the_curve_of_the_loss_falls_with_it_and_needs_no_numbers():
    assert sparkline([8.0, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert len(sparkline([1 / step for step in range(1, 1000)])) == 8
    assert sparkline([]) == sparkline([0.5]) == sparkline([0.5, 0.5]) == ""
    assert sparkline([1.0, float("nan"), 0.0]) == "█▁"


def test_in_80_columns_the_bar_has_everything_on_two_lines():
    file = io.StringIO()
    event = ProgressEvent(
        step=9846,
        of=10_000,
        loss=0.0123,
        lr=1.234e-5,
        grad_norm=0.512,
        epoch=6.61,
        samples_per_second=123.4,
        eta_seconds=4000,
    )
    with Terminal(RUN, Console(file=file, force_terminal=True, width=80, highlight=False)) as screen:
        for loss in (0.5, 0.3, 0.2, 0.1):
            screen(event.model_copy(update={"loss": loss}))
        screen(event)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    shown = [line for line in re.split(r"[\r\n]+", text) if "loss 0.0123" in line][-1]
    assert "9846/10000" in shown and "█▅▄▂▁" in shown and "1:06:40 left" in shown and len(shown.rstrip()) <= 80
    assert "lr 1.2e-05  grad norm 0.51  epoch 6.6  123.4 samples/s" in text
