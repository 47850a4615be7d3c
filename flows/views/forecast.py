"""What a training will need, before it starts: a table for ``--dry-run``, a line for ``pippa train``."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.views.terminal import duration, size
from trainer.config.argv import to_argv
from trainer.config.finetune_config import FinetuneConfig
from trainer.config.run_spec import Engine
from trainer.config.settings import DISK_RESERVE, frame_cache_bytes, frame_cache_folder, pippa_home, price_per_hour
from trainer.events import WarningEvent
from trainer.forecast import Forecast, Memory, Model, forecast, kept_frames, model_of
from trainer.generation import is_tiny
from trainer.memory_advice import CARDS, smallest_card, ways
from trainer.runner.cards import Card
from trainer.runner.forecast_warnings import host_memory, memory_warning
from trainer.runner.measured_speed import MeasuredSpeed, measured_speed

_Row = tuple[str, int | str, str]
"""A title, bytes or a text, and a remark."""


@dataclass(frozen=True)
class Plan:
    """A training's forecast, beside what is there for it."""

    config: FinetuneConfig
    engine: Engine
    model: Model
    needs: Forecast
    cards: list[Card] | None
    """The GPUs it may use, empty on a CPU; None where they are not known from here."""
    free: int | None
    """Bytes on the disk of PIPPA_HOME; None where the training's disk is not known from here."""
    embedded_store: bool
    """Whether the object store lies on that disk too."""
    frames: int | None
    """Bytes that the frame cache will take; None while the dataset is not known."""
    speed: MeasuredSpeed | None
    price: float | None
    """What a machine costs an hour, where ``PIPPA_PRICE_PER_HOUR`` is set."""

    @property
    def on_cpu(self) -> bool:
        """Whether it is known to train on a CPU. A real model without a GPU here is rather meant for elsewhere."""
        return _on_cpu(self.config, self.cards)

    @property
    def disk(self) -> int:
        """Bytes that will lie on the disk of PIPPA_HOME, as far as they are known."""
        return sum(amount for _, amount, _ in _disk(self) if isinstance(amount, int))


def plan(
    config: FinetuneConfig,
    launcher: str,
    engine: Engine,
    cards: list[Card] | None,
    environ: Mapping[str, str] = os.environ,
) -> Plan | None:
    """The forecast for ``config`` where ``launcher`` will train it, on one of ``cards``; None for a model of unknown
    sizes.
    """
    model = model_of(config.base_model_path, config.generation)
    if model is None:
        return None
    home = pippa_home(environ)
    needs = forecast(config, model, native=engine == "native")
    existing = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free if launcher == "process" else None
    on_gpu = config.images_on_gpu and not _on_cpu(config, cards)
    room = _room_for_frames(needs, free, environ)
    return Plan(
        config=config,
        engine=engine,
        model=model,
        needs=needs,
        cards=cards,
        free=free,
        embedded_store=launcher != "remote" and not environ.get("PIPPA_S3_ENDPOINT"),
        frames=None if needs.disk.frames is None else kept_frames(needs.disk.frames, room, on_gpu=on_gpu),
        speed=measured_speed(home, config, engine) if launcher != "remote" else None,
        price=price_per_hour(environ),
    )


def _on_cpu(config: FinetuneConfig, cards: list[Card] | None) -> bool:
    return cards == [] and is_tiny(config.base_model_path)


def _room_for_frames(needs: Forecast, free: int | None, environ: Mapping[str, str]) -> int:
    """What ``FrameStore.plan`` lets frames take, as far as the disk is known."""
    bound = frame_cache_bytes(environ)
    rooms = [sys.maxsize] if bound is None else [bound]
    if free is not None:
        there = 0
        for file in frame_cache_folder(environ).glob("*/frames.npy"):
            with contextlib.suppress(OSError):  # another run makes room at this moment
                there += file.stat().st_size
        rooms.append(max(there + free - DISK_RESERVE - needs.disk.checkpoints, 0))
    return min(rooms)


def print_forecast(console: Console, found: Plan) -> None:
    """All of it, as a table, and what to change where it does not fit."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold", style="dim")
    for title, amount, remark in _rows(found):
        style = "" if title.startswith(" ") else "bold"
        table.add_row(f"[{style}]{title}[/]" if style else title, _shown(amount), escape(remark))
    console.print("What it will need, by arithmetic (docs/memory.md):")
    console.print(table)
    if found.engine != "native":
        console.print(
            "Isaac-GR00T takes more GPU memory than that: it computes logits that nothing reads.", style="dim"
        )
    for warning in warnings(found):
        print_warning(console, warning)
    if found.cards is None or (found.cards == [] and not found.on_cpu):
        _print_ways(console, found)


def print_needs(console: Console, found: Plan) -> None:
    """The sums, in a line, and the warnings."""
    if found.on_cpu:
        memory = f"{size(found.needs.host_on_cpu)} of memory"
    else:
        memory = f"{size(found.needs.gpu.total)} of GPU memory{_of_card(found)}"
    parts = [memory, f"up to {size(found.disk)} of disk", f"{size(found.needs.disk.uploaded)} to the store"]
    if found.speed:
        parts.append(f"about {_time(found, found.speed)}")
    if found.speed and found.price is not None:
        parts.append(f"which costs {_cost(found)}")
    console.print(f"[dim]Needs {escape(', '.join(parts))}[/]", soft_wrap=True)
    for warning in warnings(found):
        print_warning(console, warning)


def warnings(found: Plan) -> Iterator[WarningEvent]:
    """What is too small for the training, and what helps."""
    if found.cards is not None and (warning := memory_warning(found.config, found.model, found.cards)):
        yield warning
    if found.free is not None and found.disk > found.free:
        yield WarningEvent(
            message=f"It may need up to {size(found.disk)} of disk; {pippa_home()} has {size(found.free)} free.",
            hint="Raise --save-steps, bound the decoded frames (PIPPA_FRAME_CACHE), set PIPPA_HOME to a larger disk or "
            "PIPPA_S3_ENDPOINT to a store elsewhere.",
        )


def print_warning(console: Console, warning: WarningEvent) -> None:
    """What is wrong, and what helps below it."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row("[yellow]![/]", f"{escape(warning.message)}\n[dim]{escape(warning.hint)}[/]")
    console.print(grid)


def _rows(found: Plan) -> Iterator[_Row]:
    needs, config = found.needs, found.config
    if found.on_cpu:
        have = host_memory()
        of = f"of {size(have)}: " if have else ""
        yield "memory", needs.host_on_cpu, f"{of}it trains on the CPU"
        yield from _memory(needs.cpu, config)
        yield "  processes", needs.host_on_cpu - needs.cpu.total, "libraries, data loading, copies of a checkpoint"
    else:
        yield (
            "GPU memory",
            needs.gpu.total,
            f"on each GPU{_of_card(found)}" if config.processes > 1 else _of_card(found).strip(" ()"),
        )
        yield from _memory(needs.gpu, config)
        if config.fsdp and min(config.num_nodes, config.num_gpus) > 1:
            yield _divided_otherwise(found)
        yield "host memory", needs.host, "copies of a checkpoint, frames loaded ahead, libraries"
    free = f", of {size(found.free)} free" if found.free is not None else ""
    yield "disk", found.disk, f"at most{free}{', and the decoded frames' if found.frames is None else ''}"
    yield from _disk(found)
    disk = needs.disk
    frozen = f", and {size(disk.frozen)} frozen once" if disk.frozen else ""
    count = f"{disk.saves} checkpoint{'s' if disk.saves > 1 else ''}"
    yield "to the store", disk.uploaded, f"{count} of {size(disk.changing)}{frozen}"
    yield "  and again", disk.moments, "the training state, while it trains"
    if found.speed:
        yield "time", _time(found, found.speed), f"{found.speed.seconds_per_step:.2g} s a step, as {found.speed.run_id}"
    if found.price is not None:
        nodes = f", for each of {config.num_nodes} nodes" if config.num_nodes > 1 else ""
        known = "" if found.speed else "; how long it takes is known once it has trained here"
        yield "cost", _cost(found) if found.speed else "?", f"at {found.price:g} an hour{nodes}{known}"


def _memory(memory: Memory, config: FinetuneConfig) -> Iterator[_Row]:
    share = f", 1/{config.shards} on each GPU" if config.fsdp else ""
    yield "  weights", memory.weights, f"{memory.parameters / 1e6:,.1f} M parameters{share}"
    yield "  AdamW moments", memory.moments, f"of the {memory.trained / 1e6:,.1f} M that are trained{share}"
    yield "  activations", memory.activations, f"at {' '.join(to_argv(config, ['batch_size']))}"
    together = f"they come while activations go: {size(memory.together)} together"
    yield "  gradients", memory.gradients, together if config.gradient_accumulation_steps == 1 else "accumulated"
    if memory.buckets:
        exchanged = (
            "pieces gathered from others" if config.fsdp else "the gradients once more, to be exchanged between GPUs"
        )
        yield "  buckets", memory.buckets, exchanged
    if memory.fixed:
        yield "  CUDA", memory.fixed, "context and workspaces"


def _divided_otherwise(found: Plan) -> _Row:
    """What the other way to divide the model between several machines would take."""
    config = found.config
    gpus, words = config.num_gpus, "each machine has a copy of the model, and only gradients cross the network"
    if config.shards < config.processes:
        gpus, words = config.processes, "all machines have one copy of the model"
    other = forecast(config.model_copy(update={"fsdp_devices": gpus}), found.model).gpu.total
    return "  or in all", other, f"with --fsdp-devices {gpus}: {words}"


def _disk(found: Plan) -> Iterator[_Row]:
    disk = found.needs.disk
    kept = min(disk.saves, disk.kept + 1)
    frozen = f", and {size(disk.frozen)} frozen" if disk.frozen and disk.atomic else ""
    yield "  checkpoints", disk.checkpoints, f"{kept} of {size(disk.each)}{frozen}"
    yield (
        "  frames",
        "?" if found.frames is None else found.frames,
        _of_frames(found),
    )
    model = found.needs.model
    yield "  base model", model, "in the cache"
    if found.embedded_store:
        states = disk.saves * disk.moments
        yield (
            "  store",
            model + disk.uploaded + states,
            f"base model, checkpoints, training states ({size(states)} at most)",
        )


def _of_frames(found: Plan) -> str:
    frames = found.needs.disk.frames
    if frames is None or found.frames is None:
        return "the dataset decoded, 1.5 bytes a pixel, or 3 as RGB"
    if found.frames == frames.rgb:
        return "the dataset decoded, once per machine"
    if found.frames == frames.planes:
        return f"the dataset decoded, as 4:2:0, once per machine ({size(frames.rgb)} as RGB)"
    return f"of the dataset, decoded, as much as there is room for ({size(frames.rgb)} as RGB)"


def _of_card(found: Plan) -> str:
    if found.cards:
        card = min(found.cards, key=lambda each: each.memory)
        return f" ({card.name}: {size(card.memory)})" if card.memory else ""
    smallest = smallest_card(found.needs.gpu.total)
    return f" (a card of {smallest} GB or more)" if smallest else " (more than any one card has)"


def _print_ways(console: Console, found: Plan) -> None:
    """With which flags it would fit the next smaller size of a card."""
    smallest = smallest_card(found.needs.gpu.total)
    below = [gigabytes for gigabytes in CARDS if smallest is None or gigabytes < smallest]
    if not below:
        return
    console.print(f"On a card of {below[-1]} GB it trains with one of these:")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    for way in ways(found.config, found.model, CARDS[below[-1]] << 20):
        table.add_row(f"  {way.flags}", size(way.total))
    console.print(table)


def _shown(amount: int | str) -> str:
    return size(amount) if isinstance(amount, int) else amount


def _time(found: Plan, speed: MeasuredSpeed) -> str:
    return duration(found.config.max_steps * speed.seconds_per_step)


def _cost(found: Plan) -> str:
    """Of the training itself, in the currency of the price."""
    seconds = found.config.max_steps * found.speed.seconds_per_step if found.speed else 0.0
    return f"{(found.price or 0.0) * found.config.num_nodes * seconds / 3600:,.2f}"
