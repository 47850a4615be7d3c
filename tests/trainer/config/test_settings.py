from __future__ import annotations

import base64
import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.settings import secret_from, upload_patience
from trainer.errors import UsageError
from trainer.masking import looks_like_path
from trainer.output import masked_output


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_the_patience_of_uploads_is_a_number_of_seconds(text):
    with pytest.raises(UsageError, match="PIPPA_UPLOAD_PATIENCE"):
        upload_patience({"PIPPA_UPLOAD_PATIENCE": text})
    assert upload_patience({"PIPPA_UPLOAD_PATIENCE": "0"}) == 0 and upload_patience({}) == 3600


def said_of(value, monkeypatch) -> str:
    """What a person sees of a wrong ``PIPPA_SERVE_TOKEN_FILE``."""
    environ = {"PIPPA_SERVE_TOKEN_FILE": value}
    monkeypatch.setattr(sys, "stderr", seen := io.StringIO())
    with masked_output(environ), pytest.raises(UsageError) as caught:
        try:
            secret_from(environ, "PIPPA_SERVE_TOKEN")
        except UsageError as error:
            sys.stderr.write(str(error))
            raise
    assert caught.value.hint
    return seen.getvalue()


@pytest.mark.parametrize(
    "path",
    [
        "/run/secrets/token",
        "/not/mounted/wandb-key-2026",
        "./token",
        "~/keys/hf",
        "../../token",
        "token.txt",
        "there/k",
    ],
)
def test_the_path_of_a_secret_that_can_not_be_read_is_shown(path, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"PIPPA_SERVE_TOKEN_FILE: can't read {path} (No such file or directory)" in said_of(path, monkeypatch)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_the_path_of_what_is_no_text_file_is_shown(content, tmp_path, monkeypatch):
    path = tmp_path / "token-A1b2C3d4E5f6G7h8"
    path.write_bytes(content) if content else path.mkdir()
    assert f"can't read {path} (" in said_of(str(path), monkeypatch)


@pytest.mark.parametrize(
    "key",
    [
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "/JalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "hf_" + "aBcD" * 9,
        "3f1d2c4b5a69788796a5b4c3d2e1f00112233445",
        "/9f8e7d6c5b4a392817",
        "correct horse battery staple",
        "pippa:hunter2",
        "minioadmin",
    ],
)
def test_a_key_in_the_place_of_its_files_path_is_not_shown(key, monkeypatch):
    said = said_of(key, monkeypatch)
    assert key not in said and "is not the path of a file" in said


@given(st.binary(min_size=15, max_size=64))
def test_no_random_key_looks_like_a_path(secret):
    text = base64.b64encode(secret).decode()
    mixed = text != text.lower()
    assert not looks_like_path(secret.hex()) and not (mixed and looks_like_path(text))


def test_a_secret_in_a_file_of_the_home_folder_is_read_and_masked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "token").write_text("the-secret-itself\n")
    environ = {"PIPPA_SERVE_TOKEN_FILE": "~/token"}
    assert secret_from(environ, "PIPPA_SERVE_TOKEN") == "the-secret-itself"
    with masked_output(environ):
        sys.stdout.write("it is the-secret-itself in ~/token")
    assert capsys.readouterr().out == "it is *** in ~/token"
