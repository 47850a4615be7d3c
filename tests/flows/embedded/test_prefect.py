from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flows.embedded.prefect import given_api, server_environment
from tests.support.waiting import PATIENCE


def get(url: str, auth: str | None = None) -> object:
    from base64 import b64encode

    request = urllib.request.Request(url)
    if auth:
        request.add_header("Authorization", f"Basic {b64encode(auth.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
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


def test_the_api_that_is_given_is_signed_in_to_with_what_is_given():
    environ = {"PREFECT_API_URL": "http://prefect.example/api", "PREFECT_API_AUTH_STRING": "me:secret"}
    api = given_api(environ)
    assert api.to_environ() == environ and "secret" not in repr(api).replace("SecretStr", "")


def test_no_secret_is_handed_on_to_the_server(tmp_path):
    secrets = dict.fromkeys(("WANDB_API_KEY", "PREFECT_API_KEY", "PIPPA_S3_SECRET_KEY"), "key")
    environ = server_environment(tmp_path, {"PATH": "/bin", **secrets})
    assert environ["PATH"] == "/bin" and "key" not in environ.values()
