from __future__ import annotations

import io
import threading

import pytest

from trainer.events import CheckpointEvent, Emitter, PhaseEvent, ProgressEvent, parse_event


def test_what_is_emitted_is_parsed_back():
    stream = io.StringIO()
    event = ProgressEvent(step=3, of=10, loss=0.5, lr=1e-4)
    Emitter(stream)(event)
    assert parse_event(stream.getvalue()) == event


@pytest.mark.parametrize(
    "line", ["", "loss 0.3", "{'loss': 0.3}", '{"event": "progress"', '{"event": "surprise"}', "[]"]
)
def test_other_lines_are_no_events(line):
    assert parse_event(line) is None


def test_lines_from_many_threads_stay_whole():
    stream = io.StringIO()
    emit = Emitter(stream)

    def work(number: int) -> None:
        for step in range(50):
            emit(CheckpointEvent(step=step, digest=f"{number:064x}", bytes_uploaded=1, seconds=0.1))
            emit(PhaseEvent(phase="train"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 800
    assert all(parse_event(line) for line in lines)
