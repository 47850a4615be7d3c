"""``pippa checkpoints export`` and its push, with the hub's real client against a hub on this machine."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

import pytest
from huggingface_hub import constants

from flows import cli
from tests.support.hub import hub
from tests.support.hub_pushes import Pushes
from tests.support.registered import another, tiny_checkpoint
from trainer.gr00t.policy import Policy
from trainer.gr00t.weight_files import weights_problem
from trainer.store.folder import FolderStore
from trainer.store.registry import CheckpointEntry

TOKEN = f"hf_{secrets.token_hex(16)}"


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> tuple[Path, CheckpointEntry]:
    """Its home, and the one checkpoint in its store."""
    folder = tmp_path_factory.mktemp("machine")
    store = FolderStore(folder / "home" / "store")
    store.create()
    return folder, tiny_checkpoint(store, folder)


@pytest.fixture
def home(machine, tmp_path, monkeypatch) -> Path:
    """Of a machine on which nobody has signed in to the hub."""
    home = machine[0] / "home"
    for name, value in {"PIPPA_HOME": str(home), "COLUMNS": "250", "HF_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIPPA_S3_ENDPOINT", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # so that the hub here knows the files' contents
    return home


def test_what_is_pushed_acts_from_the_hub(home, machine, point_at_hub, tmp_path, capfd):
    folder, entry = machine
    repositories: dict[str, dict[str, bytes]] = {}
    pushes = Pushes({"my-lab"})
    with hub(repositories, token=TOKEN, pushes=pushes) as (address, requests):
        point_at_hub(address)
        assert cli.main(["checkpoints", "export", "latest", str(tmp_path / "out"), "--push", "my-lab/kitchen"]) == 0
        files = repositories["models/my-lab/kitchen"]
        assert pushes.private == {"models/my-lab/kitchen": True}
        written = {file.relative_to(tmp_path / "out").as_posix(): file for file in (tmp_path / "out").rglob("*.*")}
        assert files.keys() - {".gitattributes"} == written.keys()
        assert all(files[name] == file.read_bytes() for name, file in written.items())
        assert weights_problem(tmp_path / "out") is None
        # The later checkpoint has other weights; what the hub has is not sent again.
        another(entry, FolderStore(home / "store"), folder, step=40)
        files["model-00003-of-00003.safetensors"] = files["their-notes.md"] = b"of an earlier push"
        sent = {each for each in requests if each.startswith("PUT")}
        for _ in range(2):
            assert cli.main(["checkpoints", "export", "latest", "--push", "my-lab/kitchen"]) == 0
        assert "their-notes.md" in files and "model-00003-of-00003.safetensors" not in files
        assert len([each for each in requests if each.startswith("PUT")]) == 4 == len(sent) + 2
        assert pushes.commits == [f"{entry.run_id}/{step}, exported by pippa" for step in (30, 40, 40)]
        policy = Policy("my-lab/kitchen", "fourier_gr1_arms_only", "new_embodiment", device="cpu")
    assert policy.get_action(policy.example())["action.right_arm"].shape == (16, 7)
    printed = "".join(capfd.readouterr())
    assert f"{address}/my-lab/kitchen" in printed and not list((home / "tmp").iterdir())
    everything = [*home.rglob("*"), *(tmp_path / "out").rglob("*")]
    assert TOKEN not in printed
    assert not [file for file in everything if file.is_file() and TOKEN.encode() in file.read_bytes()]


def test_the_client_sends_large_files_to_xets_storage_where_it_can(home, point_at_hub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    repositories: dict[str, dict[str, bytes]] = {}
    pushes = Pushes({"my-lab"})
    with hub(repositories, token=TOKEN, pushes=pushes) as (address, requests):
        point_at_hub(address)
        assert cli.main(["checkpoints", "export", "latest", str(tmp_path / "out"), "--push", "my-lab/kitchen"]) == 0
    files = repositories["models/my-lab/kitchen"]
    weights = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(weights) == 2 and pushes.shards and len(pushes.commits) == 1
    for file in weights:
        assert files[file.name].decode() == hashlib.sha256(file.read_bytes()).hexdigest()
    # Nothing of them goes another way; chunks are compressed, and sent once.
    assert sum(map(len, pushes.xorbs.values())) > 0.5 * sum(file.stat().st_size for file in weights)
    assert not [each for each in requests if "/lfs/" in each]


WRONG = {
    "no token": (["--push", "my-lab/kitchen"], "There is no token for the Hugging Face hub."),
    "not the account's": (["--push", "nvidia/kitchen"], "does not let this account write to nvidia/kitchen"),
    "no owner": (["--push", "kitchen"], "is no name of a repository"),
    "no name": (["--push", "my-lab/-kitchen--"], "is no name of a repository"),
    "public": (["--push", "my-lab/open"], "is there already, and public"),
    "a bad token": (["--push", "my-lab/kitchen"], "does not accept the token"),
    "nowhere": ([], "Where to?"),
    "public folder": (["{out}", "--public"], "--public is of what is pushed"),
    "a full folder": (["{there}", "--push", "my-lab/kitchen"], "is not an empty folder"),
    "the hub is down": (["--push", "my-lab/kitchen"], "could not be pushed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_before_anything_is_read(
    home, point_at_hub, monkeypatch, tmp_path, capsys, request, case
):
    words, said = WRONG[case]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    if case == "no token":
        monkeypatch.delenv("HF_TOKEN")
    if case == "a bad token":
        monkeypatch.setenv("HF_TOKEN", "hf_other")
    blobs = home / "store" / "blobs"
    blobs.rename(home / "gone")  # what reads a file finds none
    request.addfinalizer(lambda: (home / "gone").rename(blobs))
    places = {"{out}": str(tmp_path / "out"), "{there}": str(tmp_path / "there")}
    with hub({"models/my-lab/open": {}}, token=TOKEN, pushes=Pushes({"my-lab"})) as (address, asked):
        point_at_hub("http://127.0.0.1:9" if case == "the hub is down" else address)
        assert cli.main(["checkpoints", "export", "latest", *(places.get(each, each) for each in words)]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint and len(complaint.strip().splitlines()) >= 2, complaint
    assert not re.search(r"hf_\w{5,}", complaint)
    assert not [each for each in asked if "preupload" in each]
    assert {each.name for each in tmp_path.iterdir()} == {"there"}
