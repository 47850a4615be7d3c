"""NVIDIA's repository, small: read from a hub on loopback by the real client, and taken into the store whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.hub import COMMIT, hub
from tests.support.official import MODEL, TOKENIZER, State, official_files, official_state, tokenizer_files
from trainer import importers
from trainer.config.settings import S3Settings
from trainer.errors import PippaError, UsageError
from trainer.gr00t.n15.model import EMBEDDINGS, GR00TN15, LM_HEAD
from trainer.gr00t.n15.processor import EagleProcessor
from trainer.store import snapshots
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store

VISION = "backbone.eagle_model.vision_model."


def flatten(state: State) -> None:
    """SigLIP's names as transformers 5 saves them."""
    for name in [name for name in state if name.startswith(f"{VISION}vision_model.")]:
        state[name.replace(f"{VISION}vision_model.", VISION)] = state.pop(name)


@pytest.fixture(scope="module")
def address(tiny: Path) -> Iterator[str]:
    with hub({MODEL: official_files(tiny), TOKENIZER: tokenizer_files(tiny)}) as (address, _):
        yield address


@pytest.fixture
def at_hub(address: str, point_at_hub: Callable[[str], None]) -> None:
    point_at_hub(address)


def folder_of(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def encode(processor: EagleProcessor) -> list[int]:
    image = np.zeros((1, 224, 224, 3), np.uint8)
    return processor.encode(["Pick the µ-cube, 12 times"], [image])["eagle_input_ids"][0].tolist()


def test_by_its_hub_id(at_hub: None, tiny: Path) -> None:
    """Weights and config from NVIDIA's repository, the tokenizer, which that lacks, from LeRobot's."""
    model = GR00TN15.from_pretrained("nvidia/GR00T-N1.5-3B")
    want = official_state(tiny)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == want[name].dtype and torch.equal(tensor, want[name]), name
    assert {p.dtype for p in model.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.action_head.parameters()} == {torch.float32}
    assert encode(EagleProcessor.from_directory("nvidia/GR00T-N1.5-3B")) == encode(EagleProcessor.from_directory(tiny))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop(LM_HEAD),
        lambda state: state.pop(EMBEDDINGS),
        flatten,
        lambda state: [state.update({name: state[name].float()}) for name in state],
    ],
    ids=["without lm_head", "without embed_tokens", "flat vision names", "all float32"],
)
def test_every_form_of_its_weights(tiny: Path, tmp_path: Path, change: Callable[[State], object]) -> None:
    model = GR00TN15.from_pretrained(folder_of(official_files(tiny, change), tmp_path))
    want = official_state(tiny)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == want[name].dtype and torch.equal(tensor, want[name]), name


def test_saved_again_it_keeps_upstreams_fields(tiny: Path, tmp_path: Path) -> None:
    source = folder_of(official_files(tiny), tmp_path / "official")
    GR00TN15.from_pretrained(source).save_pretrained(tmp_path / "saved")
    ours = json.loads((tmp_path / "saved/config.json").read_text())
    theirs = json.loads((source / "config.json").read_text())
    assert ours.pop("transformers_version") != theirs.pop("transformers_version")
    for key, value in theirs.items():
        if key.endswith("_cfg"):
            assert {name: ours[key][name] for name in value} == value
        elif key != "eagle_config":
            assert ours[key] == value and type(ours[key]) is type(value), key


def store_environ(settings: S3Settings, folder: Path, address: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    hub_at = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "hf"), "HOME": str(folder)}
    return {**kept, **hub_at, **settings.to_environ(), "PIPPA_HOME": str(folder / "home")}


@pytest.mark.slow
def test_prepared_it_needs_no_hub(address: str, tiny: Path, s3_settings: S3Settings, tmp_path: Path) -> None:
    """`trainer prepare base-model nvidia/GR00T-N1.5-3B`, then everything from the store alone."""
    environ = store_environ(s3_settings, tmp_path, address)
    command = [sys.executable, "-m", "trainer.cli", "prepare", "base-model", "nvidia/GR00T-N1.5-3B"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "has no tokenizer; taking lerobot/eagle2hg-processor-groot-n1p5" in done.stderr
    store = S3Store(s3_settings)
    (info,) = snapshots.list_snapshots(store, "model")
    assert info.origin == {
        "hub": "nvidia/GR00T-N1.5-3B",
        "revision": COMMIT,
        "tokenizer": f"lerobot/eagle2hg-processor-groot-n1p5@{COMMIT}",
        "license": "NVIDIA OneWay Noncommercial License",
    }
    assert done.stderr.count("under the NVIDIA OneWay Noncommercial License") == 1
    assert done.stdout.strip() == f"nvidia/GR00T-N1.5-3B@{info.ref.digest}"
    folder = snapshots.pull(store, info.ref, tmp_path / "pulled")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gr00t_n1_5"
    assert not (folder / "processing_eagle2_5_vl.py").exists() and not (folder / ".cache").exists()
    code = (
        "import sys; from trainer.gr00t.n15.model import GR00TN15\n"
        "from trainer.gr00t.n15.processor import EagleProcessor\n"
        "GR00TN15.from_pretrained(sys.argv[1]); print(EagleProcessor.from_directory(sys.argv[1]).image_tokens)"
    )
    offline = {**environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=offline, capture_output=True, text=True, check=False
    )
    assert loaded.stdout.strip() == "64", loaded.stderr


def test_a_folder_is_completed_and_not_written_to(
    at_hub: None, tiny: Path, object_store: ObjectStore, tmp_path: Path
) -> None:
    folder = folder_of(official_files(tiny), tmp_path / "downloaded")
    before = sorted(path.name for path in folder.iterdir())
    ref = importers.base_model(object_store, str(folder), tmp_path / "work")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not list((tmp_path / "work").iterdir())
    pulled = snapshots.pull(object_store, ref, tmp_path / "pulled")
    assert encode(EagleProcessor.from_directory(pulled)) == encode(EagleProcessor.from_directory(tiny))


def test_what_is_no_whole_base_model_is_not_taken_in(tiny: Path, object_store: ObjectStore, tmp_path: Path) -> None:
    files = official_files(tiny)
    shard = "model-00002-of-00003.safetensors"

    def refusal(name: str, change: Callable[[Path], object]) -> UsageError:
        folder = folder_of(files, tmp_path / name)
        change(folder)
        with pytest.raises(UsageError) as caught:
            importers.base_model(object_store, str(folder), tmp_path / "work")
        return caught.value

    missing = refusal("missing", lambda folder: (folder / shard).unlink())
    assert f"model.safetensors.index.json names {shard}, which is missing" in missing.message
    cut = refusal("cut", lambda folder: (folder / shard).write_bytes(files[shard][:-100]))
    assert f"{shard} has {len(files[shard]) - 100} bytes instead of {len(files[shard])}" in cut.message
    other = refusal("other", lambda folder: (folder / "config.json").write_text('{"model_type": "gr00t_n1_6"}'))
    assert "GR00T N1.6, which pippa does not support" in other.message and "nvidia/GR00T-N1.5-3B" in other.hint
    garbled = refusal("garbled", lambda folder: (folder / "config.json").write_text("{"))
    assert "config.json can't be read as JSON" in garbled.message
    assert not list(snapshots.list_snapshots(object_store, "model"))


def test_the_token_may_be_in_a_file(
    tiny: Path,
    object_store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point_at_hub: Callable[[str], None],
) -> None:
    (tmp_path / "token").write_text("hf_secret")
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path / "token"))
    with hub({MODEL: official_files(tiny), TOKENIZER: tokenizer_files(tiny)}, token="hf_secret") as (address, _):
        point_at_hub(address)
        GR00TN15.from_pretrained("nvidia/GR00T-N1.5-3B")
        EagleProcessor.from_directory("nvidia/GR00T-N1.5-3B")
        importers.base_model(object_store, "nvidia/GR00T-N1.5-3B", tmp_path / "work")


def test_a_tokenizer_that_stays_wrong_is_not_taken_in(
    tiny: Path, object_store: ObjectStore, tmp_path: Path, point_at_hub: Callable[[str], None]
) -> None:
    folder = folder_of(official_files(tiny), tmp_path / "downloaded")
    files = tokenizer_files(tiny)
    with hub({TOKENIZER: files}, corrupt=dict.fromkeys(files, 10)) as (address, _):
        point_at_hub(address)
        with pytest.raises(PippaError, match="does not have the hash that the hub states"):
            importers.base_model(object_store, str(folder), tmp_path / "work")
    assert not list(snapshots.list_snapshots(object_store, "model"))


def test_without_the_hub_the_tokenizer_is_asked_for(
    tiny: Path, object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    folder = folder_of(official_files(tiny), tmp_path / "downloaded")
    with pytest.raises(UsageError, match="has no tokenizer") as caught:
        importers.base_model(object_store, str(folder), tmp_path / "work")
    assert "hf download lerobot/eagle2hg-processor-groot-n1p5" in caught.value.hint
    shutil.copy(tiny / "tokenizer.json", folder)
    assert importers.base_model(object_store, str(folder), tmp_path / "work").name == "downloaded"
