"""``trainer``: the commands inside the training image."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from trainer.command_line import Parser
from trainer.config.data_options import DataOptions
from trainer.data.rules import rules_of
from trainer.errors import ExitCode, PippaError, UsageError
from trainer.events import Emitter, ErrorEvent, PhaseEvent, SnapshotEvent
from trainer.output import masked_output
from trainer.version import version

USAGE = """\
usage: trainer COMMAND …

  run PRESET [--flag …]    train, upload checkpoints meanwhile, evaluate
  run --run-id RUN         start or continue a run of the object store
  prepare dataset NAME     import a dataset into the object store
  prepare base-model NAME  import a base model into the object store
  finetune [--flag …]      the native engine alone, with upstream's flags
  evaluate [--flag …]      evaluate one checkpoint, open loop
  serve NAME               serve a checkpoint to robots
  log-page --run RUN       log the page of a run to its W&B run
  doctor                   check this machine: devices, versions, object store
  --version

`trainer COMMAND --help` explains a command.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: exits with the code of ``trainer.errors.ExitCode`` that fits.

    Every ``PippaError`` becomes two lines on stderr and an ``error`` event on stdout; a traceback only with
    ``PIPPA_DEBUG=1``, or when the error is a defect of pippa.
    """
    _share_processors()
    with masked_output(os.environ) as output:
        sys.exit(output.finished(_answered(list(sys.argv[1:] if argv is None else argv))))


def _share_processors() -> None:
    """Let OpenMP's threads sleep soon while they wait for each other; read when torch is imported.

    By default they compute in circles. Where another process has one of two cores, a training on them then takes ten
    times as long; where all are free, sleeping costs it a twentieth.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # libgomp's own for more threads than processors


def _answered(argv: list[str]) -> int:
    """``_dispatch``, with every error reported."""
    try:
        return _dispatch(argv)
    except PippaError as error:
        if os.environ.get("PIPPA_DEBUG") == "1":
            traceback.print_exc()
        report(error)
        return error.exit_code
    except SystemExit as end:
        if end.code:
            raise
        return ExitCode.DONE  # argparse's way of ending after --help
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        known = _known(error)
        if known is None:
            traceback.print_exc()  # here, and not by Python itself, secrets are masked
            return ExitCode.FAILED
        report(known)
        return known.exit_code


def report(error: PippaError) -> None:
    """``error`` for people on stderr, for programs on stdout."""
    sys.stderr.write(f"error: {error.message}\n" + (f"{error.hint}\n" if error.hint else ""))
    if sys.stdout.isatty():
        return
    Emitter()(ErrorEvent(code=int(error.exit_code), message=error.message, hint=error.hint))


def _known(error: Exception) -> PippaError | None:
    from trainer.config.settings import pippa_home
    from trainer.disk import as_disk_full, unwritable

    return as_disk_full(error, pippa_home()) or unwritable(error, pippa_home())


def _dispatch(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    match command:
        case "run":
            from trainer.runner.command import main as run

            return run(rest)
        case "prepare":
            return _prepare(rest)
        case "finetune" | "evaluate" | "serve":
            return importlib.import_module(f"trainer.{command}").main(rest)
        case "log-page":
            from trainer.evaluation.log_page import main as log_page

            return log_page(rest)
        case "doctor":
            return _doctor(rest)
        case "-h" | "--help" | "help":
            sys.stdout.write(USAGE)
            return ExitCode.DONE
        case "-V" | "--version" | "version":
            sys.stdout.write(f"pippa {version()}\n")
            return ExitCode.DONE
    import difflib

    known = ["run", "prepare", "finetune", "evaluate", "serve", "log-page", "doctor"]
    near = difflib.get_close_matches(command, known, n=1)
    hint = f"Did you mean `trainer {near[0]}`?" if near else "`trainer --help` lists the commands."
    raise UsageError(f"There is no command `trainer {command}`.", hint)


def _doctor(argv: list[str]) -> int:
    from trainer.config.presets import all_presets

    parser = Parser("trainer doctor", description="Say what stands between this machine and a training, with cures.")
    known = all_presets()
    parser.add_argument(
        "preset", metavar="PRESET", nargs="?", choices=list(known), help="compare with this preset's needs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    arguments = parser.parse_args(argv)
    from trainer.runner.doctor import main

    return main(known[arguments.preset] if arguments.preset else None, as_json=arguments.json)


def _prepare(argv: list[str]) -> int:

    parser = Parser("trainer prepare", description="Import a dataset or base model into the store.")
    parser.add_argument("kind", choices=["dataset", "base-model"])
    parser.add_argument("name", help="OWNER/NAME[@REVISION] of the hub, git+https://…@REF#FOLDER, s3://…, ./FOLDER")
    parser.add_argument("--name", dest="store_name", help="its name in the store")
    parser.add_argument("--data-config", help="for a dataset: check it against this data config first")
    DataOptions.add_to(parser)
    parser.add_argument("--events", action="store_true", help="progress and result as events (JSON lines) on stdout")
    parser.add_argument("--refresh", action="store_true", help="ask the source for a newer one, if the store has one")
    arguments = parser.parse_args(argv)

    from trainer import importers
    from trainer.config.settings import pippa_home
    from trainer.disk import private_folder
    from trainer.store.stores import open_store

    private_folder(pippa_home())
    store = open_store()
    store.open()
    work = importers.downloads_folder(pippa_home())

    emit = Emitter()

    def log(line: str) -> None:
        sys.stderr.write(line + "\n")
        if arguments.events:
            emit(PhaseEvent(phase="prepare", message=line))

    called, refresh = arguments.store_name, arguments.refresh
    if arguments.kind == "dataset":
        options = DataOptions.of(arguments)
        config = arguments.data_config and rules_of(options.generation).declared(arguments.data_config)
        ref = importers.dataset(
            store,
            arguments.name,
            work,
            data_config=config,
            options=options,
            store_name=called,
            refresh=refresh,
            log=log,
            warn=lambda problem: log(str(problem)),
        )
    else:
        ref = importers.base_model(store, arguments.name, work, store_name=called, refresh=refresh, log=log)
    if arguments.events:
        emit(SnapshotEvent(ref=ref))
    else:
        sys.stdout.write(f"{ref.name}@{ref.digest}\n")
    return ExitCode.DONE


if __name__ == "__main__":
    main()
