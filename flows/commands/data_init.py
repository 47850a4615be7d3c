"""``pippa data init``: what a dataset needs to be trained on, proposed from what it says of itself."""

from __future__ import annotations

import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.prompt import Confirm

from flows.commands import Add, console
from trainer.data.config_file import read_file, to_toml
from trainer.data.data_config import DataConfig
from trainer.errors import ExitCode, UsageError
from trainer.importers.names import Folder


def commands(add: Add, words: Sequence[str]) -> None:  # noqa: ARG001
    """The command ``pippa data init``."""
    parser = add(
        "data init",
        init,
        description="Propose meta/modality.json and, where no built-in data config fits, a data config. No file is "
        "ever overwritten.",
    )
    parser.add_argument("path", type=Path, help="folder of a LeRobot dataset, v2 or v3")
    parser.add_argument("--yes", action="store_true", help="write without asking")
    parser.add_argument("--output", type=Path, help="file of the data config (default: here, named after the folder)")


def init(arguments: Namespace) -> int:
    """``pippa data init PATH``"""
    from trainer.data.known_robots import to_json
    from trainer.data.proposal import propose

    folder, screen = Folder(str(arguments.path)).existing(), console()
    output = _output(arguments.output, folder)
    proposal = propose(folder, _config_name(output.stem))
    files: dict[Path, str] = {}
    if proposal.writes_modality:
        files[folder / "meta/modality.json"] = to_json(proposal.modality)
    if not proposal.is_built_in and not _declares(output, proposal.config):
        files[output] = to_toml(proposal.config)
    if arguments.yes:  # before anything is printed: `| head` closes the pipe
        _write(files)
    for reason in proposal.reasons:
        screen.print(f"  {escape(reason)}", soft_wrap=True)
    for file, text in files.items():
        screen.print(f"\n[bold]{escape(str(file))}[/]\n{escape(text.rstrip())}", soft_wrap=True)
    given = arguments.path
    # A bare word would be a name in the store.
    dataset = shlex.quote(f"./{given}" if len(given.parts) == 1 and str(given)[0] not in "./~" else str(given))
    config = proposal.config.name
    if not proposal.is_built_in:
        config = shlex.quote(str(output))
    if files and not arguments.yes and not _agreed():
        again = f"pippa data init {dataset} --yes"
        if arguments.output:
            again += f" --output {shlex.quote(str(arguments.output))}"
        screen.print(f"\nNothing is written. To write it: {escape(again)}", soft_wrap=True)
        return ExitCode.DONE
    if not arguments.yes:
        _write(files)
    screen.print("\n[green]✓[/] Written." if files else "\n[green]✓[/] Nothing is missing.")
    screen.print(f"Check it:    pippa data check {escape(dataset)} --data-config {escape(config)}", soft_wrap=True)
    screen.print(
        f"Train on it: pippa train PRESET --dataset-path {escape(dataset)} --data-config {escape(config)}",
        soft_wrap=True,
    )
    return ExitCode.DONE


def _output(given: Path | None, folder: Path) -> Path:
    """Where the data config goes. Raises ``UsageError`` for a name that is not read as one."""
    if given is not None and given.suffix != ".toml":
        raise UsageError(f"--output {given}: a data config is written as TOML.", "Name a file that ends in .toml.")
    return given.expanduser() if given else Path(f"{_config_name(folder.name)}.toml")


def _config_name(text: str) -> str:
    """``text`` as the name of a data config."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:80] or "my_robot"


def _declares(file: Path, config: DataConfig) -> bool:
    """Whether ``file`` declares ``config`` already. Raises ``UsageError`` where it is something else."""
    if not file.exists():
        return False
    try:
        same = read_file(file) == config
    except UsageError:
        same = False
    if not same:
        raise UsageError(
            f"{file} exists and declares something else; it is not overwritten.",
            "Name another file: --output FILE.toml.",
        )
    return True


def _agreed() -> bool:
    """The answer of the person at the terminal; no without one."""
    return sys.stdin.isatty() and Confirm.ask("\nWrite this?", default=True, console=console())


def _write(files: Mapping[Path, str]) -> None:
    """Write new files. Raises ``UsageError`` for one that exists by now, or can't be written."""
    for file, text in files.items():
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError:
            raise UsageError(f"{file} exists; it is not overwritten.", "Move it away, or keep it.") from None
        except OSError as error:
            raise UsageError(
                f"{file} can't be written ({error.strerror or error}).",
                "Work on a copy of the dataset that you may change.",
            ) from error
