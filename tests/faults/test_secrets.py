"""Every secret of .env.example, planted where pippa is called, is in nothing that a run leaves or shows."""

from __future__ import annotations

import json
import re
import secrets
import stat

import pytest

from tests.conftest import REPOSITORY
from tests.support.waiting import PATIENCE
from trainer.masking import is_secret

NAMES = re.findall(r"^# ([A-Z0-9_]+)=", (REPOSITORY / ".env.example").read_text(), re.MULTILINE)
OTHERS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN", "MY_ROBOTS_PASSWORD")


def planted(folder) -> dict[str, str]:
    """One secret for each name: half of them in the environment, half in files."""
    environ = {}
    for name in (*filter(is_secret, NAMES), *OTHERS):
        value = f"planted-{secrets.token_urlsafe(12)}"
        if name.endswith("AUTH_STRING"):
            value = f"pippa:{value}"
        environ[name] = value
    for name in ("HF_TOKEN", "PIPPA_POSTGRES_PASSWORD", "PREFECT_API_AUTH_STRING"):
        file = folder / name.lower()
        file.write_text(environ.pop(name) + "\n")
        environ[f"{name}_FILE"] = str(file)
    environ["HTTPS_PROXY"] = f"http://me:planted-{secrets.token_hex(8)}@127.0.0.1:9"
    return environ


def values(environ: dict[str, str]) -> list[str]:
    found = []
    for name, value in environ.items():
        if name.endswith("_FILE"):
            value = open(value).read().strip()  # noqa: PTH123, SIM115
        found.append(re.findall(r"planted-[\w-]+", value)[0])
    return found


def test_the_settings_that_are_secret_are_known_by_their_names():
    assert {name for name in NAMES if is_secret(name)} == {
        "WANDB_API_KEY",
        "HF_TOKEN",
        "PIPPA_SOURCE_S3_ACCESS_KEY",
        "PIPPA_SOURCE_S3_SECRET_KEY",
        "PIPPA_S3_ACCESS_KEY",
        "PIPPA_S3_SECRET_KEY",
        "PREFECT_API_AUTH_STRING",
        "PIPPA_POSTGRES_PASSWORD",
        "PIPPA_SERVE_TOKEN",
    }


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["well", "badly"])
def test_no_secret_is_in_anything_a_run_leaves(pippa, tmp_path, ends):
    given = planted(tmp_path)
    found = values(given)
    told = tmp_path / "told"
    known = [name for name in given if name.startswith(("PIPPA_S3_", "WANDB_", "HF_"))]
    said = values({name: given[name] for name in (*known, "HTTPS_PROXY")})
    told.write_text("".join(f"the secret is {value}, again {value}\n" for value in said))
    engine = {**json.loads(pippa.environ["FAKE_ENGINE"]), "chatty": str(told)}
    if ends == "badly":
        engine |= {"fail": "leak", "at": 7}
    pippa.environ |= {**given, "FAKE_ENGINE": json.dumps(engine), "PIPPA_DEBUG": "1"}

    process = pippa.train("--max-steps", "8")
    pippa.wait_for_pause(process)
    lines = [" ".join(each.cmdline()) for each in pippa.left()]
    assert len(lines) > 2 and not [value for value in found for line in lines if value in line]
    children = {}
    for each in pippa.left():
        if each.pid != process.pid:
            children[" ".join(each.cmdline())] = "\n".join(map(str, each.environ().items()))
    engines = [text for line, text in children.items() if "fake_engine" in line]
    recording = [text for line, text in children.items() if "recording" in line]
    trainers = [text for line, text in children.items() if "trainer.cli" in line]
    assert engines and recording and trainers
    proxy = values({"HTTPS_PROXY": given["HTTPS_PROXY"]})
    for text in (*engines, *recording):
        assert re.findall(r"planted-[\w-]+", text) in ([], proxy)  # a proxy is of use to what reaches out
    needed = values({name: given[name] for name in ("PIPPA_S3_ACCESS_KEY", "PIPPA_S3_SECRET_KEY", "WANDB_API_KEY")})
    for text in trainers:
        assert set(re.findall(r"planted-[\w-]+", text)) == {*needed, *proxy}

    pippa.go_on()
    assert process.wait(PATIENCE) == (0 if ends == "well" else 7), pippa.output.read_text()
    assert pippa.left() == []
    log = next(pippa.home.glob("runs/*/log.txt")).read_text()
    assert log.count("the secret is ***, again ***") >= 2 * len(said)  # on stdout and on stderr
    files = [pippa.output, *(file for file in pippa.home.rglob("*") if file.is_file())]
    leaked = [(file.name, value) for file in files for value in found if value.encode() in file.read_bytes()]
    assert not leaked and any(file.suffix == ".db" for file in files)


@pytest.mark.slow
def test_what_pippa_keeps_on_a_machine_is_its_owners_alone(new_pippa):
    pippa = new_pippa
    pippa.go_on()
    assert pippa.train("--max-steps", "2").wait(PATIENCE) == 0, pippa.output.read_text()
    assert stat.S_IMODE(pippa.home.stat().st_mode) == 0o700
    databases = [file for file in pippa.home.rglob("*") if ".db" in file.name]
    assert databases and {stat.S_IMODE(file.stat().st_mode) for file in databases} == {0o600}
