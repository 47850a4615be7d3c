from __future__ import annotations

from trainer.events import ProgressEvent, WarningEvent
from trainer.runner.hf_log_parser import HfLogParser


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def bar(step: int, of: int = 200) -> str:
    return f"  5%|▌         | {step}/{of} [00:05<01:40,  1.90it/s]"


def test_bar_and_loss_become_progress():
    clock = Clock()
    translator = HfLogParser(200, samples_per_step=4, clock=clock)
    translator.feed(bar(0))
    clock.now = 5.0
    translator.feed(bar(10))
    (event,) = translator.feed("{'loss': 0.5, 'grad_norm': 1.25, 'learning_rate': 0.0001, 'epoch': 0.1}")
    assert isinstance(event, ProgressEvent)
    assert (event.step, event.of, event.loss, event.grad_norm, event.lr) == (10, 200, 0.5, 1.25, 1e-4)
    assert event.samples_per_second == 8.0  # two steps a second, four samples each
    assert event.eta_seconds == 95.0


def test_numbers_as_text_as_newer_transformers_print_them():
    translator = HfLogParser(200, 1)
    translator.feed(bar(20))
    (event,) = translator.feed("{'loss': '0.25', 'grad_norm': '3', 'learning_rate': '5e-05', 'epoch': '0.2'}")
    assert isinstance(event, ProgressEvent)
    assert (event.loss, event.lr) == (0.25, 5e-5)


def test_other_bars_and_lines_say_nothing_of_the_training():
    translator = HfLogParser(200, 1)
    assert translator.feed("Loading checkpoint shards: 100%|██████████| 2/2 [00:01<00:00,  1.90it/s]") == []
    assert translator.feed("{'train_runtime': 5.0, 'train_loss': 0.5}") == []
    assert translator.feed("some text with 'loss': 0.5 in it") == []


def test_bars_are_relayed_once_a_second():
    clock = Clock()
    translator = HfLogParser(200, 1, clock=clock)
    events = []
    for step in range(100):
        clock.now = step / 10
        events += translator.feed(bar(step))
    assert len(events) == 10


def test_without_a_bar_loss_lines_are_counted():
    translator = HfLogParser(25, 1)
    steps = [event.step for _ in range(3) for event in translator.feed("{'loss': 1.0}") if event.event == "progress"]
    assert steps == [10, 20, 25]


def test_a_loss_that_is_no_number_is_a_warning_once():
    translator = HfLogParser(200, 1)
    translator.feed(bar(10))
    first = translator.feed("{'loss': nan, 'grad_norm': nan, 'learning_rate': 0.001}")
    second = translator.feed("{'loss': nan, 'grad_norm': nan, 'learning_rate': 0.001}")
    assert isinstance(first[0], WarningEvent) and "lower --learning-rate" in first[0].hint
    assert [event.event for event in second] == ["progress"]
    assert isinstance(second[0], ProgressEvent) and second[0].loss is None
