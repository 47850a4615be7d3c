from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flows.embedded.prefect import PrefectApi, _prepare, given_api


def get(url: str, auth: str | None = None) -> object:
    from base64 import b64encode

    request = urllib.request.Request(url)
    if auth:
        request.add_header("Authorization", f"Basic {b64encode(auth.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def test_the_server_asks_for_its_password(prefect_environ):
    url = prefect_environ["PREFECT_API_URL"]
    assert get(f"{url}/admin/version", prefect_environ["PREFECT_API_AUTH_STRING"])
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{url}/admin/version")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{url}/admin/version", "pippa:guess")


def test_it_sends_nothing_home_and_writes_only_into_its_folder(prefect_environ):
    url, auth = prefect_environ["PREFECT_API_URL"], prefect_environ["PREFECT_API_AUTH_STRING"]
    settings = get(f"{url}/admin/settings", auth)
    assert isinstance(settings, dict)
    assert settings["server"]["analytics_enabled"] is False and settings["server"]["ui"]["enabled"] is False
    assert settings["home"] == prefect_environ["PREFECT_HOME"]
    assert (Path(settings["home"]) / "prefect.db").is_file()


def test_a_server_that_is_given_is_used(tmp_path):
    environ = {"PREFECT_API_URL": "http://prefect.example/api", "PREFECT_API_AUTH_STRING": "me:secret"}
    assert given_api(environ).to_environ() == environ


def test_no_secret_is_shown_or_handed_on(tmp_path):
    assert "secret" not in repr(PrefectApi("http://prefect.example/api", auth=None)).replace("SecretStr", "")
    environ = {
        "PATH": os.environ["PATH"],
        "WANDB_API_KEY": "key",
        "PREFECT_API_KEY": "key",
        "PIPPA_S3_SECRET_KEY": "key",
    }
    program = _prepare(tmp_path, environ)
    auth = program.connection["auth"]
    assert auth not in " ".join(program.argv) and "key" not in program.environ.values()
    assert auth != _prepare(tmp_path, environ).connection["auth"]
