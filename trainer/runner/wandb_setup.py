"""Weights & Biases: what the engine's environment says, and the native engine's bounded start of its run.

W&B down, slow or misconfigured never stops a training: without a usable key, or with a server that doesn't answer, the
run is recorded offline and kept with the run in the object store, from where ``pippa runs sync`` uploads it any time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import netrc
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.presets import Preset
from trainer.config.run_spec import RunSpec, WandbSpec
from trainer.config.settings import secret_from
from trainer.errors import UsageError
from trainer.events import Event, WarningEvent
from trainer.store import runs
from trainer.store.object_store import ObjectStore

if TYPE_CHECKING:
    from wandb import Run

PROJECT = "pippa"
INIT_TIMEOUT_SECONDS = 30
OFFLINE_TIMEOUT_SECONDS = 120
"""No server is asked then: only this machine can be slow, and without a start nothing is recorded."""
PROBE_TIMEOUT_SECONDS = 10
FINISH_TIMEOUT = {"WANDB_FINISH_TIMEOUT": "120"}
"""Seconds that a run's end waits for a W&B server that went away; without it W&B waits for days, on a held GPU. In
mid-run W&B tries again until then, so a shorter outage loses nothing."""
URL_FILE = "url.txt"
"""In the folder ``wandb`` of a run that is online: the address of its page."""
LINEAGE = "PIPPA_LINEAGE"
"""JSON: what a run was made of, for the configuration in W&B. W&B's own variables and the argv have the rest."""
GROUP = "WANDB_RUN_GROUP"
"""W&B's name for the group of a run."""
SECRETS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN")
"""What W&B itself needs of an environment."""
_NO_NETWORK = ("offline", "disabled", "dryrun")


def default_wandb(
    preset: Preset, run_id: str, environ: Mapping[str, str] = os.environ, config: FinetuneConfig | None = None
) -> WandbSpec:
    """The W&B run of ``run_id``: named ``<preset>-<UTC time>``, tagged as the preset says, and grouped by preset
    unless ``WANDB_RUN_GROUP`` says otherwise. The project is that of ``config`` where it names one, as N1.7's can.
    """
    project = getattr(config, "wandb_project", None)
    return WandbSpec(
        entity=environ.get("WANDB_ENTITY") or "",
        project=project or environ.get("WANDB_PROJECT") or PROJECT,
        name=run_id.rsplit("-", 1)[0],
        run_id=run_id,
        group=environ.get(GROUP) or preset.name,
        tags=list(preset.wandb_tags),
        site=_site(environ),
    )


def wandb_environment(
    spec: RunSpec, folder: Path, environ: Mapping[str, str] = os.environ
) -> tuple[dict[str, str], WarningEvent | None]:
    """The variables that make any engine report to the W&B run of ``spec``, and a warning when only offline.

    ``folder`` is the run's own; W&B's files lie in ``folder/wandb`` and its caches beside it. A ``WANDB_MODE`` the user
    set wins. The key, which may come from ``WANDB_API_KEY_FILE``, goes into the result: never log it.
    """
    run = spec.wandb
    variables = {
        **({"WANDB_ENTITY": run.entity} if run.entity else {}),
        "WANDB_PROJECT": run.project,
        "WANDB_NAME": run.name,
        "WANDB_RUN_ID": run.run_id,
        "WANDB_RESUME": "allow",
        GROUP: run.group,
        **({"WANDB_TAGS": ",".join(run.tags)} if run.tags else {}),  # W&B takes no empty one
        LINEAGE: json.dumps(_lineage(spec)),
        "WANDB_DIR": str(folder),
        **{name: environ.get(name) or seconds for name, seconds in FINISH_TIMEOUT.items()},
        "WANDB_CACHE_DIR": str(folder / "wandb-cache"),
        "WANDB_DATA_DIR": str(folder / "wandb-cache" / "data"),
        "WANDB_ARTIFACT_DIR": str(folder / "wandb-cache" / "artifacts"),
    }
    connection, warning = wandb_connection(environ)
    return {**variables, **connection}, warning


def wandb_connection(environ: Mapping[str, str] = os.environ) -> tuple[dict[str, str], WarningEvent | None]:
    """``WANDB_MODE`` or ``WANDB_API_KEY``, as W&B should have them, and a warning when it can only run offline.

    Takes seconds at most: a key is tried, because what W&B itself does without a usable one is to ask, or to fail.
    """
    mode = environ.get("WANDB_MODE", "").lower()
    if mode in _NO_NETWORK:
        return {"WANDB_MODE": mode}, None
    offline = {"WANDB_MODE": "offline"}
    try:
        key = secret_from(environ, "WANDB_API_KEY")
    except UsageError as error:
        return offline, _offline(error.message)
    given = {"WANDB_API_KEY": key} if key else {}
    if not key and not environ.get("WANDB_IDENTITY_TOKEN_FILE") and not (key := netrc_key(environ)):
        return offline, _offline("There is no W&B key on this machine")
    if key and (reason := _refused(_base_url(environ), key)):
        return offline, _offline(reason)
    return given, None


def start_run(
    config: FinetuneConfig,
    output_dir: Path,
    emit: Callable[[Event], None],
    environ: MutableMapping[str, str] = os.environ,
) -> Run | None:
    """Start the W&B run in this process; Hugging Face's callback then logs to it.

    W&B's own variables say which run it is, those of ``wandb_environment`` where a run was started from a spec. For an
    engine used by itself the run is named after ``output_dir`` and its files lie there; ``wandb_config.json`` in it
    keeps the id, with which ``--resume`` continues the same run.

    Never raises and never takes longer than the timeout: without a usable key, and when the server can't be used, the
    run is recorded offline, with one warning. When even that fails, the answer is None and the caller must keep Hugging
    Face's callback from trying itself.
    """
    connection, warning = wandb_connection(environ)
    environ.update(connection)
    for name, seconds in FINISH_TIMEOUT.items():
        environ.setdefault(name, seconds)
    if warning is not None:
        emit(warning)
    kept = output_dir / "wandb_config.json"
    run_id = environ.get("WANDB_RUN_ID")
    alone = run_id is None
    if alone and config.resume and kept.is_file():
        run_id = json.loads(kept.read_text())["run_id"]
    project = environ.get("WANDB_PROJECT") or PROJECT
    lineage = {"lineage": json.loads(environ[LINEAGE])} if LINEAGE in environ else {}
    run = _start(
        {
            "project": project,
            "name": environ.get("WANDB_NAME") or output_dir.name,
            "id": run_id,
            "config": {**config.model_dump(mode="json"), **lineage},
            "dir": environ.get("WANDB_DIR") or str(output_dir),
        },
        emit,
        environ,
    )
    if run is not None and isinstance(url := getattr(run, "url", None), str):
        # For the report, which does not know the entity that W&B chose.
        Path(run.dir).parent.with_name(URL_FILE).write_text(url + "\n")
    if run is not None and alone:
        kept.write_text(json.dumps({"project": project, "run_id": run.id}, indent=2) + "\n")
    return run


def _start(arguments: dict[str, object], emit: Callable[[Event], None], environ: Mapping[str, str]) -> Run | None:
    import wandb

    mode = environ.get("WANDB_MODE", "online").lower()
    for attempt in dict.fromkeys([mode, "offline"]):
        seconds = OFFLINE_TIMEOUT_SECONDS if attempt == "offline" else INIT_TIMEOUT_SECONDS
        settings = wandb.Settings(init_timeout=seconds, console="off")
        try:
            return wandb.init(**arguments, resume="allow", settings=settings, mode=attempt)  # pyrefly: ignore[bad-argument-type]
        except Exception as error:  # W&B may raise anything, and the training continues
            first = str(error).partition("\n")[0]
            emit(_offline(f"W&B could not start the run ({type(error).__name__}: {first})"))
            # W&B's background service still holds the run's id.
            with contextlib.suppress(Exception):
                wandb.teardown()
    return None


def unsent_runs(folder: Path) -> list[Path]:
    """What W&B recorded under the run's ``folder`` and its server lacks, oldest first: a resumed run has several parts.

    Those recorded offline, and those whose upload W&B gave up, which only its own log tells.
    """
    recorded = folder / "wandb"
    online = [part for part in recorded.glob("run-*") if _gave_up(part / "logs" / "debug-internal.log")]
    return in_order([*recorded.glob("offline-run-*"), *online])


def in_order(parts: Iterable[Path]) -> list[Path]:
    """The parts of a W&B run as they were recorded. A name is ``[offline-]run-<time>-<run id>``."""
    return sorted(parts, key=lambda part: part.name.removeprefix("offline-"))


def keep_unsent_runs(store: ObjectStore, run_id: str, folder: Path) -> bool:
    """Copy ``unsent_runs`` into the store; whether there are any. Raises ``StoreError``."""
    parts = {part.name for part in unsent_runs(folder)}
    if not parts:
        return False
    recorded = folder / "wandb"

    def ignore(path: str) -> bool:
        # What `latest-run` is a link to has its name; `logs` may still be written, and an upload does not need them.
        part, _, rest = path.partition("/")
        return part not in parts or rest.startswith("logs/") or (recorded / path).is_symlink()

    runs.upload_folder(store, run_id, recorded, "wandb", ignore=ignore)
    return True


def _gave_up(log: Path) -> bool:
    try:
        return "filestream: fatal error" in log.read_text(errors="replace")
    except OSError:
        return False


def _lineage(spec: RunSpec) -> dict[str, object]:
    return {
        "run_id": spec.run_id,
        "preset": spec.preset,
        "engine": spec.engine,
        "datasets": [str(ref) for ref in spec.datasets],
        "base_model": str(spec.base_model),
        "git_sha": spec.git_sha,
        "image": spec.image,
    }


def _offline(reason: str) -> WarningEvent:
    return WarningEvent(
        message=f"{reason.rstrip('.')}: this run is recorded offline.",
        hint="`pippa runs sync RUN` uploads it later; its files are kept with the run. Set WANDB_API_KEY to log live.",
    )


def _base_url(environ: Mapping[str, str]) -> str:
    return (environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").rstrip("/")


def _site(environ: Mapping[str, str]) -> str:
    """Where a server's pages are: W&B's own API has a host apart, one's own server has not."""
    base = _base_url(environ)
    return "https://wandb.ai" if base == "https://api.wandb.ai" else base


def netrc_key(environ: Mapping[str, str]) -> str | None:
    """The key ``wandb login`` left in the netrc file, which wandb itself reads."""
    files = [Path(environ["NETRC"])] if environ.get("NETRC") else [Path.home() / name for name in (".netrc", "_netrc")]
    for file in files:
        try:
            entry = netrc.netrc(file.expanduser()).authenticators(urlsplit(_base_url(environ)).hostname or "")
        except (OSError, netrc.NetrcParseError):
            continue
        if entry and entry[2]:
            return entry[2]
    return None


def _refused(base_url: str, key: str) -> str | None:
    """Why the server at ``base_url`` can't be used with ``key``, or None. Takes seconds at most.

    Upstream's engines start W&B themselves, with nothing to catch a refused key, so it is asked beforehand.
    """
    request = urllib.request.Request(  # noqa: S310 - http(s) only, checked below
        f"{base_url}/graphql",
        data=json.dumps({"query": "query { viewer { username } }"}).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(f"api:{key}".encode()).decode(),
        },
    )
    if urlsplit(base_url).scheme not in ("http", "https"):
        return f"WANDB_BASE_URL is not a URL: {base_url}"
    try:
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_SECONDS) as response:  # noqa: S310
            answer = json.load(response)
        if not isinstance(answer, dict) or not answer.keys() & {"data", "errors"}:
            return f"{base_url} is not a W&B server"
        viewer = (answer.get("data") or {}).get("viewer")
    except json.JSONDecodeError:
        return f"{base_url} is not a W&B server"
    except urllib.error.HTTPError as error:
        return f"W&B at {base_url} answers {error.code} ({error.reason})"
    except (OSError, ValueError, AttributeError) as error:
        return f"W&B at {base_url} can't be reached ({getattr(error, 'reason', None) or type(error).__name__})"
    return None if viewer else f"W&B at {base_url} does not know this key"
