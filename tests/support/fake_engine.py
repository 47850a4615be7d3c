"""An engine with upstream's command line and output directory and no model: what the supervisor sees, without torch.

``FAKE_ENGINE`` (JSON) says how it behaves:
``style`` native (events, checkpoints by rename, saves on SIGTERM) or isaac (Hugging Face's lines, in place, dies);
``step_seconds``; ``keep`` as save_total_limit; ``fail`` how to fail ``at`` a step, with ``only`` where these arguments
have these values; ``pause_at`` a step until the file
``pause_file`` exists (``pause_file`` + ".reached" tells that it waits); ``chatty`` a file whose lines it prints, each
in two writes, and its environment; ``wandb`` to log each step with W&B's own client.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import sys
import time
import zipfile
from pathlib import Path

from trainer.config.argv import parse_flags
from trainer.config.presets import PRESETS
from trainer.events import Emitter, ErrorEvent, PhaseEvent, ProgressEvent, SavedEvent, WarningEvent
from trainer.runner.checkpoint_folder import checkpoints
from trainer.runner.parent_watch import die_with_parent
from trainer.runner.wandb_setup import start_run

OPTIONS = json.loads(os.environ.get("FAKE_ENGINE", "{}"))
ONLY = OPTIONS.get("only", {})
NATIVE = OPTIONS.get("style", "native") == "native"
stopping = False


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def safetensors(path: Path, content: bytes) -> None:
    header = json.dumps(
        {"weight": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)


def torch_file(path: Path, content: bytes) -> None:
    """An archive, as ``torch.save`` writes; the same content gives the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), content)


def write(folder: Path, step: int) -> None:
    folder.mkdir()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "config.json").write_text("{}")
    safetensors(folder / names[0], b"frozen" * 10_000)
    safetensors(folder / names[1], f"tuned at {step}".encode() * 1000)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch_file(folder / name, f"{name} at {step}".encode() * 100)
    if OPTIONS.get("fail") == "half-saved" and step >= OPTIONS["at"]:
        (folder / names[1]).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (folder / "experiment_cfg").mkdir()
    (folder / "experiment_cfg" / "metadata.json").write_text("{}")


def save(output_dir: Path, step: int) -> None:
    final = output_dir / f"checkpoint-{step}"
    if NATIVE:
        staging = output_dir / f".checkpoint-{step}"
        shutil.rmtree(staging, ignore_errors=True)
        write(staging, step)
        staging.rename(final)
        Emitter()(SavedEvent(step=step))
    else:
        write(final, step)
    keep = OPTIONS.get("keep")
    for old in list(checkpoints(output_dir).values())[: -keep if keep else 0]:
        shutil.rmtree(old)


def chat(file: str) -> None:
    """Say what nobody should hear, in halves."""
    lines = [*Path(file).read_text().splitlines(), *(f"{name}={value}" for name, value in os.environ.items())]
    for stream in (sys.stdout, sys.stderr):
        for line in lines:
            for half in (line[: len(line) // 2], line[len(line) // 2 :] + "\n"):
                stream.write(half)
                stream.flush()
                time.sleep(0.001)
    Emitter()(WarningEvent(message=" ".join(lines), hint=lines[0]))


def fail(how: str, step: int) -> None:
    if how == "cuda":
        sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    if how == "host":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "shm":
        sys.exit("RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. Out of shared memory?")
    if how == "disk":
        sys.exit("OSError: [Errno 28] No space left on device: 'model-00001-of-00002.safetensors'")
    if how == "reported":
        Emitter()(ErrorEvent(code=3, message=f"frame missing at step {step}", hint="re-record it"))
        sys.exit(3)
    if how == "leak":
        say(f"the environment: {dict(os.environ)}")
        Emitter()(ErrorEvent(code=7, message=f"key {os.environ.get('WANDB_API_KEY')}"))
        sys.exit(1)
    if how == "crash":
        raise ValueError(f"something else at step {step}")


def main() -> None:
    global stopping
    die_with_parent(interval=0.1)
    config, _ = parse_flags(sys.argv[1:], PRESETS["smoke"].config)
    output_dir = Path(config.output_dir)
    assert output_dir.is_absolute() and Path(config.dataset_path[0]).is_dir() and Path(config.base_model_path).is_dir()
    with Path(OPTIONS.get("calls", os.devnull)).open("a") as calls:
        calls.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}) + "\n")

    def stop(*_: object) -> None:
        global stopping
        stopping = True

    if NATIVE:
        signal.signal(signal.SIGTERM, stop)
    say("not an event")
    reported = start_run(config, output_dir, Emitter()) if OPTIONS.get("wandb") else None
    offline = config.report_to == "wandb" and os.environ.get("WANDB_MODE") == "offline"
    if reported is None and offline:  # as wandb leaves it, with its link
        recorded = Path(os.environ["WANDB_DIR"]) / "wandb" / f"offline-run-{os.getpid()}-{os.environ['WANDB_RUN_ID']}"
        recorded.mkdir(parents=True)
        (recorded / "run.wandb").write_bytes(b"recorded")
        (recorded / "logs").mkdir()
        (recorded / "logs" / "debug-core.log").symlink_to(output_dir / "elsewhere.log")
        link = recorded.with_name("latest-run")
        link.unlink(missing_ok=True)
        link.symlink_to(recorded.name)
    if "chatty" in OPTIONS:
        chat(OPTIONS["chatty"])
    step = 0
    if config.resume:
        step = list(checkpoints(output_dir))[-1]
        assert (output_dir / f"checkpoint-{step}" / "trainer_state.json").is_file()
    if NATIVE:
        Emitter()(PhaseEvent(phase="train"))
    while step < config.max_steps and not stopping:
        time.sleep(OPTIONS.get("step_seconds", 0.01))
        step += 1
        if reported is not None:
            reported.log({"step": step})
        if NATIVE:
            Emitter()(ProgressEvent(step=step, of=config.max_steps, loss=1 / step, lr=1e-4))
        else:
            sys.stderr.write(f"\r{step * 100 // config.max_steps}%|##| {step}/{config.max_steps} [00:01<00:09, 9it/s]")
            sys.stderr.flush()
            if step % 10 == 0:
                say(str({"loss": f"{1 / step:.4g}", "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": 0.1}))
        if step % config.save_steps == 0:
            save(output_dir, step)
        if OPTIONS.get("at") == step and all(getattr(config, name) == value for name, value in ONLY.items()):
            fail(OPTIONS.get("fail", ""), step)
        if OPTIONS.get("pause_at") == step:
            Path(OPTIONS["pause_file"] + ".reached").touch()
            while not Path(OPTIONS["pause_file"]).exists() and not stopping:
                time.sleep(0.02)
    if step not in checkpoints(output_dir):
        save(output_dir, step)
    if stopping:
        sys.exit(143)


if __name__ == "__main__":
    main()
