"""What a person reads of a forecast, in a terminal of 80 columns."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from flows.launch import machine
from flows.views import forecast as views
from flows.views.forecast import Plan, plan, print_forecast, print_needs
from trainer.config.argv import resolve
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.memory_advice import fits
from trainer.runner.cards import Card
from trainer.runner.measured_speed import MeasuredSpeed

L4, L40S = (
    Card(str(at), f"GPU-{at}", name, mib << 20, "")
    for at, (name, mib) in enumerate([("NVIDIA L4", 23_034), ("NVIDIA L40S", 46_068)])
)


USAGE = shutil.disk_usage("/")


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with no GPU, a large disk and a large memory."""
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(machine, "found_cards", list)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE._replace(free=10**13))
    monkeypatch.setattr("trainer.runner.forecast_warnings.host_memory", lambda: 10**12)


def config(preset: str, *flags: str) -> FinetuneConfig:
    return resolve(preset, flags, environ={})[1]


def planned(given: FinetuneConfig, launcher: str = "process", engine: Engine = "native") -> Plan | None:
    return plan(given, launcher, engine, machine.cards(launcher))


def printed(found: Plan | None, how: object = print_forecast) -> str:
    assert found is not None and callable(how)
    file = io.StringIO()
    how(Console(file=file, width=80, highlight=False), found)
    assert max(map(len, file.getvalue().splitlines())) <= 80 or how is print_needs
    return file.getvalue()


def test_the_sums_are_those_of_their_parts(tmp_path: Path) -> None:
    found = planned(config("blog", "--gradient-accumulation-steps", "2", "--num-gpus", "2"))
    rows = re.findall(r"^(\S.*?|  \S.*?) +([\d.]+) GB", printed(found), re.MULTILINE)
    sums: dict[str, float] = {}
    at = ""
    for title, amount in rows:
        at = at if title.startswith(" ") else title
        sums[at] = sums.get(at, 0) + (float(amount) if title.startswith(" ") else -float(amount))
    assert sums["GPU memory"] == pytest.approx(0, abs=0.3) and sums["disk"] == pytest.approx(0, abs=0.3)


def test_without_a_card_sizes_are_named_and_flags_for_the_next_smaller_one() -> None:
    for launcher in ("process", "remote"):
        said = printed(planned(config("blog"), launcher))
        assert "a card of 32 GB or more" in said
        assert re.search(r"On a card of 24 GB .*:\n  --batch-size 8 +22.1 GB\n", said)
    assert (
        "--batch-size"
        not in printed(planned(config("overfit-demo", "--lora-rank", "8"), "remote")).partition("On a card")[2]
    )


@pytest.mark.parametrize("how", [print_forecast, print_needs])
def test_a_card_that_is_too_small_is_warned_of_with_flags_that_help(how: object, monkeypatch) -> None:
    monkeypatch.setattr(machine, "found_cards", lambda: [L4, L40S])
    found = planned(config("blog"))
    said = " ".join(printed(found, how).split())
    assert "! This training needs about 28.7 GB of GPU memory; NVIDIA L4 has 24.2 GB, of which 92% can" in said
    assert "These fit: `--batch-size 8` (22.1 GB)" in said and "On a card of" not in said
    assert found is not None and not fits(found.needs.gpu.total, L4.memory)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    said = printed(planned(config("blog")), how)
    assert "NVIDIA L40S: 48.3 GB" in said and "!" not in said and "--batch-size 8" not in said


def test_a_training_on_a_cpu_takes_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    said = printed(planned(config("smoke")))
    assert "it trains on the CPU" in said and "GPU memory" not in said and "CUDA" not in said and "!" not in said
    assert "of memory" in printed(planned(config("smoke")), print_needs)
    monkeypatch.setattr("trainer.runner.forecast_warnings.host_memory", lambda: 10**9)
    assert "this machine has 1.0 GB" in " ".join(printed(planned(config("blog"))).split())


def test_a_full_disk_is_warned_of_where_it_is_this_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE._replace(free=10**11))
    assert "has 100.0 GB free" in " ".join(printed(planned(config("blog"))).split())
    assert "free" not in printed(planned(config("blog"), "remote"))
    monkeypatch.setenv("PIPPA_FRAME_CACHE", "10")
    monkeypatch.setenv("PIPPA_S3_ENDPOINT", "http://127.0.0.1:9000")
    found = planned(config("blog", "--save-steps", "9000"))
    said = printed(found)
    assert "!" not in said and "  store" not in said and re.search(r"frames +10.0 GB", said)


@pytest.mark.parametrize(
    ("preset", "gigabytes", "frames", "remark"),
    [
        ("blog", "90", "43.8 GB", "as 4:2:0, once per machine (87.6 GB as RGB)"),
        ("blog", "20", "20.0 GB", "as much as there is room for (87.6 GB as RGB)"),
        ("so101-n17", "90", "87.6 GB", "the dataset decoded, once per machine"),
        ("so101-n17", "60", "60.0 GB", "as much as there is room for"),  # the CPU converts: what fits stays RGB
    ],
)
def test_frames_take_what_the_cache_will_keep(preset, gigabytes, frames, remark, monkeypatch):
    monkeypatch.setenv("PIPPA_FRAME_CACHE", gigabytes)
    given = config(preset, "--dataset-path", "youliangtan/so101-table-cleanup")
    said = " ".join(printed(planned(given)).split())
    assert re.search(rf"frames {frames}", said) and remark in said


def test_frames_take_no_more_than_the_disk_has_beside_checkpoints(monkeypatch, tmp_path):
    """Those that are there already have their room."""
    found = planned(config("blog"))
    assert found is not None
    room = 30 * 10**9
    free = found.needs.disk.checkpoints + 2 * 1024**3 + room
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE._replace(free=free))
    assert re.search(r"frames +30.0 GB", printed(planned(config("blog"))))
    entry = tmp_path / "home" / "cache" / "frames" / "entry"
    entry.mkdir(parents=True)
    with (entry / "frames.npy").open("wb") as file:
        file.truncate(40 * 10**9)
    assert re.search(r"frames +43.8 GB", printed(planned(config("blog"))))


def test_time_is_told_where_it_was_measured_and_frames_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = config("blog", "--dataset-path", "somebody/else")
    said = printed(planned(unknown))
    assert "time" not in said.split() and "and the decoded frames" in said and re.search(r"frames +\?", said)
    monkeypatch.setattr(views, "measured_speed", lambda *_: MeasuredSpeed("blog-20261201-100001-abcd", 0.5))
    said = printed(planned(unknown))
    assert re.search(r"time +1:23:20 +0.5 s a step, as blog-20261201-100001-abcd", said)
    assert "about 1:23:20" in printed(planned(unknown, "docker"), print_needs)
    assert "about" not in printed(planned(unknown, "remote"), print_needs)


def test_of_a_model_that_is_not_known_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gr00t_n1_6"}')
    assert planned(config("blog", "--base-model-path", str(tmp_path))) is None


def test_another_engine_takes_more() -> None:
    assert "Isaac-GR00T takes more" in printed(planned(config("blog"), "remote", "isaac-uv"))


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, ["NVIDIA L4", "NVIDIA L40S"]),
        ({"PIPPA_GPUS": "all"}, ["NVIDIA L4", "NVIDIA L40S"]),
        ({"PIPPA_GPUS": "1"}, ["NVIDIA L40S"]),
        ({"PIPPA_GPUS": "none"}, []),
        ({"DOCKER_HOST": "tcp://elsewhere:2376"}, None),
        ({"PIPPA_GPUS": "GPU-7"}, None),
    ],
)
def test_a_container_has_the_cards_it_is_given(environ, names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "found_cards", lambda: [L4, L40S])
    found = machine.cards("docker", {"DOCKER_HOST": "unix:///var/run/docker.sock", **environ})
    assert (None if found is None else [card.name for card in found]) == names


def test_both_ways_to_divide_a_model_between_machines_are_told() -> None:
    flags = ("--num-nodes", "2", "--num-gpus", "8", "--batch-size", "8", "--fsdp")
    everywhere, in_each = (printed(planned(config("blog", *flags, *more))) for more in ((), ("--fsdp-devices", "8")))
    assert re.search(r"GPU memory +8\.6 GB +on each GPU \(a card of 16 GB or more\)", everywhere)
    assert re.search(r"or in all +9\.6 GB +with --fsdp-devices 8: each machine has a copy", everywhere)
    assert re.search(r"GPU memory +9\.6 GB", in_each) and "1/8 on each GPU" in in_each
    assert re.search(r"or in all +8\.6 GB +with --fsdp-devices 16: all machines", in_each)
    assert "or in all" not in printed(planned(config("blog", "--num-gpus", "8", "--fsdp")))


def test_a_price_makes_the_time_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cost" not in printed(planned(config("blog")))
    monkeypatch.setenv("PIPPA_PRICE_PER_HOUR", "2.5")
    assert re.search(r"cost +\? +at 2.5 an hour; how long it takes is known once it", printed(planned(config("blog"))))
    monkeypatch.setattr(views, "measured_speed", lambda *_: MeasuredSpeed("blog-1", 3.6))
    said = printed(planned(config("blog", "--num-nodes", "2", "--batch-size", "2")))
    assert re.search(r"cost +50\.00 +at 2.5 an hour, for each of 2 nodes", said)  # ten hours of two
    assert "which costs 25.00" in printed(planned(config("blog")), print_needs)
