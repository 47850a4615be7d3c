from __future__ import annotations

import compileall
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.settings import keep_bytecode, load_environment, prefect_environment, stop_grace
from trainer.errors import UsageError

ROOT = Path(__file__).parents[2]


def test_the_env_file_fills_in_what_is_not_set(tmp_path):
    (tmp_path / ".env").write_text("A=1\nB='two words' # why\nEMPTY\nPIPPA_S3_SECRET_KEY=a#b\n")
    environ = {"A": "mine"}
    load_environment(environ, tmp_path)
    assert environ == {"A": "mine", "B": "two words", "PIPPA_S3_SECRET_KEY": "a#b"}


def test_no_env_file_is_fine(tmp_path):
    environ: dict[str, str] = {}
    load_environment(environ, tmp_path)
    assert environ == {}


def test_an_env_file_that_is_not_text_is_an_error(tmp_path):
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00A")
    with pytest.raises(UsageError, match=r"\.env"):
        load_environment({}, tmp_path)


def test_every_setting_the_code_reads_is_in_the_example():
    example = (ROOT / ".env.example").read_text()
    code = "".join(path.read_text() for folder in ("flows", "trainer") for path in (ROOT / folder).rglob("*.py"))
    internal = {"PIPPA_LINEAGE", "PIPPA_MACHINE", "PIPPA_PARENT_PID"}
    names = set(re.findall(r"\bPIPPA_[A-Z0-9_]*[A-Z0-9]\b", code)) - internal
    assert {"PIPPA_HOME", "PIPPA_S3_ENDPOINT"} <= names
    missing = {name for name in names if name.removesuffix("_FILE") not in example and name != "PIPPA_S3"}
    assert not missing


def test_every_setting_of_the_example_is_read():
    read = [ROOT / "compose.yaml", *(ROOT / "docker").glob("*")]
    read += [path for folder in ("flows", "trainer") for path in (ROOT / folder).rglob("*.py")]
    code = "".join(path.read_text() for path in read)
    names = re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(names) > 50 and not [name for name in names if not re.search(rf"\b{name}\b", code)]


def test_the_example_can_be_copied_as_it_is(tmp_path):
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    environ: dict[str, str] = {}
    load_environment(environ, tmp_path)
    assert environ == {"WANDB_ENTITY": "wild-ai", "WANDB_PROJECT": "pippa"}


def test_prefect_keeps_to_pippas_folder_and_to_itself(tmp_path):
    environ = prefect_environment(tmp_path, {"DO_NOT_TRACK": "yes"})
    assert environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert environ["DO_NOT_TRACK"] == "yes" and environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


@pytest.mark.parametrize("compiled", [False, True], ids=["as sources", "with their bytecode"])
def test_bytecode_goes_into_pippas_folder_where_python_may_not_write_it_and_there_is_none(tmp_path, compiled):
    code = (
        "import os, pathlib, sys; from flows.settings import keep_bytecode; keep_bytecode(pathlib.Path(sys.argv[1]));"
        "import torch; print(torch.__cached__, 'PYTHONDONTWRITEBYTECODE' in os.environ)"
    )
    site = tmp_path / "site"
    for name in ("prefect", "torch", "transformers"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").touch()
    if compiled:
        compileall.compile_dir(site, quiet=1)
    environ = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": f"{site}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environ, capture_output=True, text=True, check=True
    )
    cached, kept = done.stdout.split()
    where = site if compiled else tmp_path / "cache" / "bytecode"
    assert Path(cached).is_file() and Path(cached).is_relative_to(where) and kept == str(compiled)


def test_where_python_writes_bytecode_nothing_changes(tmp_path):
    environ: dict[str, str] = {}
    keep_bytecode(tmp_path, environ)
    assert environ == {}


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_grace_period_is_a_number_of_seconds(text):
    with pytest.raises(UsageError, match="PIPPA_STOP_GRACE"):
        stop_grace({"PIPPA_STOP_GRACE": text})
    assert stop_grace({"PIPPA_STOP_GRACE": "2.5"}) == 2.5 and stop_grace({}) == 300
