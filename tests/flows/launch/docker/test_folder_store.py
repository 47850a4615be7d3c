"""A training container whose object store is a folder of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.launch.docker import placement
from tests.flows.launch.conftest import Bench, followed
from tests.support.waiting import PATIENCE
from trainer.errors import UsageError
from trainer.events import PhaseEvent
from trainer.store.folder import FolderStore

pytestmark = pytest.mark.docker


@pytest.fixture(params=[None, 4242], ids=["this-user", "another-user"])
def folder_bench(request: pytest.FixtureRequest, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A launcher without an S3 store, of a host user who is or is not the image's."""
    if request.param is not None and os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    for name in [name for name in bench.environ if name.startswith("PIPPA_S3_")]:
        del bench.environ[name]
    bench.environ |= {"PIPPA_HOME": str(bench.home), "HF_TOKEN": "the-token-of-the-hub"}
    FolderStore(bench.home / "store").create()
    if request.param is not None:
        monkeypatch.setattr(placement.os, "getuid", lambda: request.param)
        monkeypatch.setattr(placement.os, "getgid", lambda: request.param)
        placement.find_placement(bench.client, bench.environ)  # makes the folders
        for path in (bench.home, *bench.home.rglob("*")):
            os.chown(path, request.param, request.param)
    return bench


def test_it_writes_into_the_folder_as_the_host_user_and_has_its_secrets(folder_bench: Bench) -> None:
    inside = ["store/runs/x/log.txt", "store/.tmp/probe", "cache/dataset/x", "runs/x/lock"]
    training = folder_bench.start(
        write=[*(f"/var/lib/pippa/{name}" for name in inside), "$HOME/.config/x"],
        show=["/run/secrets/hf_token"],
        count=1,
        wait=True,
    )
    shown = []
    while len(shown) < 2:
        if event := training.next_event(PATIENCE):
            shown.append(event)
    attributes = folder_bench.container().attrs
    # A restarted pippa follows the same container, as the store is the same.
    again = folder_bench.start()
    assert folder_bench.container().attrs["Id"] == attributes["Id"]
    training.kill()
    again.kill()
    assert isinstance(shown[0], PhaseEvent) and shown[0].phase == "/run/secrets/hf_token"
    user = placement.os.getuid()
    for name in [*inside, "cache/home/.config/x"]:
        path = folder_bench.home / name
        assert path.read_text() == "written in the container" and path.stat().st_uid == user, name
    assert FolderStore(folder_bench.home / "store").read_bytes("runs/x/log.txt") == b"written in the container"
    assert attributes["HostConfig"]["CapDrop"] == ["ALL"]
    assert not any("PIPPA_S3" in each for each in attributes["Config"]["Env"])


def test_one_that_works_in_another_folder_goes_on_and_is_replaced_once_that_is_gone(
    folder_bench: Bench, tmp_path: Path
) -> None:
    first = folder_bench.start(count=1, wait=True)
    assert first.next_event(PATIENCE)
    before = folder_bench.container().id
    folder_bench.environ["PIPPA_HOME"] = str(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"with the object store {folder_bench.home}/store"):
        folder_bench.start()
    (folder_bench.home / "store").rename(tmp_path / "moved")
    outcome, _ = followed(folder_bench.start())
    assert outcome.exit_code == 0 and before not in [each.id for each in folder_bench.left()]
    first.kill()
