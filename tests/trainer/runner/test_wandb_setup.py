from __future__ import annotations

import base64
import http.server
import json
import socket
import threading
from datetime import UTC, datetime

import pytest

from trainer.config.presets import get_preset
from trainer.config.run_spec import RunSpec, SnapshotRef, new_run_id
from trainer.runner import wandb_setup

SMOKE = get_preset("smoke")
KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def spec():
    run_id = new_run_id("smoke", datetime(2026, 11, 22, 14, 30, 0, tzinfo=UTC))
    ref = SnapshotRef(kind="dataset", name="x", digest="0" * 64)
    return RunSpec(
        run_id=run_id,
        preset="smoke",
        config=SMOKE.config,
        provenance={},
        datasets=[ref],
        base_model=ref,
        wandb=wandb_setup.default_wandb(SMOKE, run_id, {}),
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder without a netrc file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def wandb_server():
    """A server that knows one key, as W&B's GraphQL endpoint answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            known = self.headers["Authorization"] == "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
            answer = json.dumps({"data": {"viewer": {"username": "someone"} if known else None}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format, *args):  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_run_is_named_after_preset_and_time(spec):
    run = spec.wandb
    assert (run.entity, run.project, run.group, run.tags) == ("", "pippa", "smoke", ["smoke"])
    assert run.name == "smoke-20261122-143000" and spec.run_id.startswith(run.name)
    ours = wandb_setup.default_wandb(SMOKE, spec.run_id, {"WANDB_ENTITY": "us", "WANDB_PROJECT": "arms"})
    assert (ours.entity, ours.project) == ("us", "arms")


def test_a_training_of_n17_may_name_its_project():
    preset = get_preset("smoke-n17")
    named = preset.config.model_copy(update={"wandb_project": "arms"})
    environ = {"WANDB_PROJECT": "team"}
    assert wandb_setup.default_wandb(preset, "smoke-n17-1", environ, named).project == "arms"
    assert wandb_setup.default_wandb(preset, "smoke-n17-1", environ, preset.config).project == "team"


def test_links_lead_to_the_server_that_the_settings_name(spec):
    assert spec.wandb.url is None and spec.wandb.path == f"pippa/{spec.run_id}"
    for base, site in ((None, "https://wandb.ai"), ("https://wandb.our-lab.org/", "https://wandb.our-lab.org")):
        environ = {"WANDB_ENTITY": "us", **({"WANDB_BASE_URL": base} if base else {})}
        ours = wandb_setup.default_wandb(SMOKE, spec.run_id, environ)
        assert ours.url == f"{site}/us/pippa/runs/{spec.run_id}"


def test_without_an_entity_the_key_decides(spec, home):
    assert "WANDB_ENTITY" not in wandb_setup.wandb_environment(spec, home, {})[0]


def test_without_a_key_it_is_offline_and_says_so_once(spec, home):
    variables, warning = wandb_setup.wandb_environment(spec, home / "run", {})
    assert variables["WANDB_MODE"] == "offline" and "WANDB_API_KEY" not in variables
    assert warning is not None and "offline" in warning.message and "pippa runs sync" in warning.hint
    assert variables["WANDB_RESUME"] == "allow" and variables["WANDB_RUN_ID"] == spec.run_id
    assert variables["WANDB_TAGS"] == "smoke" and variables["WANDB_RUN_GROUP"] == "smoke"
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        assert variables[name].startswith(str(home / "run"))


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_mode_the_user_set_wins_in_silence(spec, home, mode):
    variables, warning = wandb_setup.wandb_environment(spec, home, {"WANDB_MODE": mode, "WANDB_API_KEY": KEY})
    assert variables["WANDB_MODE"] == mode and warning is None


@pytest.mark.parametrize("where", ["environment", "file", "netrc"])
def test_a_known_key_reports_live(spec, home, wandb_server, where):
    environ = {"WANDB_BASE_URL": wandb_server}
    if where == "environment":
        environ["WANDB_API_KEY"] = KEY
    elif where == "file":
        (home / "key").write_text(KEY + "\n")
        environ["WANDB_API_KEY_FILE"] = str(home / "key")
    else:
        (home / ".netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {KEY}\n")
    variables, warning = wandb_setup.wandb_environment(spec, home, environ)
    assert warning is None and "WANDB_MODE" not in variables
    assert variables.get("WANDB_API_KEY") == (None if where == "netrc" else KEY)


def test_a_refused_key_degrades_to_offline(spec, home, wandb_server):
    variables, warning = wandb_setup.wandb_environment(
        spec, home, {"WANDB_BASE_URL": wandb_server, "WANDB_API_KEY": "f" * 40}
    )
    assert variables["WANDB_MODE"] == "offline"
    assert warning is not None and "does not know this key" in warning.message
    assert "f" * 40 not in str(warning)


@pytest.mark.parametrize("answers", [False, True], ids=["nobody listens", "nobody answers"])
def test_a_server_that_is_away_degrades_to_offline(spec, home, monkeypatch, answers):
    monkeypatch.setattr(wandb_setup, "PROBE_TIMEOUT_SECONDS", 0.3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        variables, warning = wandb_setup.wandb_environment(spec, home, {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY})
    assert variables["WANDB_MODE"] == "offline"
    assert warning is not None and "can't be reached" in warning.message


def test_an_unreadable_key_file_degrades_to_offline(spec, home):
    variables, warning = wandb_setup.wandb_environment(spec, home, {"WANDB_API_KEY_FILE": str(home / "absent")})
    assert variables["WANDB_MODE"] == "offline" and warning is not None and "can't read" in warning.message


def test_an_offline_run_is_recorded_in_the_runs_folder(spec, home, monkeypatch):
    variables, _ = wandb_setup.wandb_environment(spec, home, {"WANDB_MODE": "offline"})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    warnings = []
    run = wandb_setup.start_run(SMOKE.config, home / "out", warnings.append)
    assert run is not None and warnings == []
    assert (run.id, run.name, run.group, run.tags) == (spec.run_id, spec.wandb.name, "smoke", ("smoke",))
    assert run.config["batch_size"] == 8 and run.config["lineage"]["preset"] == "smoke"
    run.finish()
    (recorded,) = wandb_setup.unsent_runs(home)
    assert spec.run_id in recorded.name


@pytest.mark.slow
def test_a_start_that_fails_goes_on_offline(spec, home, monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        variables, _ = wandb_setup.wandb_environment(spec, home, {"WANDB_MODE": "offline"})
        monkeypatch.setattr(wandb_setup, "INIT_TIMEOUT_SECONDS", 4)
        # The key was good a moment ago.
        monkeypatch.setattr(wandb_setup, "wandb_connection", lambda _: ({}, None))
        environ = {**variables, "WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}"}
        for name, value in {**environ, "WANDB_MODE": "online"}.items():
            monkeypatch.setenv(name, value)
        warnings = []
        run = wandb_setup.start_run(SMOKE.config, home / "out", warnings.append)
    assert run is not None and run.settings.mode == "offline"
    assert len(warnings) == 1 and "offline" in str(warnings[0])
    run.finish()
