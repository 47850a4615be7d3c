from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from flows.orchestration.deployments import deployments
from tests.support.hub import COMMIT, LARGE, hub
from tests.support.so101 import make_so101
from trainer import importers
from trainer.errors import PippaError, UsageError
from trainer.generation import N17
from trainer.importers import downloads
from trainer.store import snapshots

TABLE = "youliangtan/so101-table-cleanup"


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> dict[str, bytes]:
    folder = make_so101(tmp_path_factory.mktemp("hub") / "table")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_table_cleanup_comes_by_its_id(object_store, point_at_hub, table, tmp_path):
    with hub({f"datasets/{TABLE}": table}, revisions=("main", "v2.1")) as (address, _):
        point_at_hub(address)
        ref = importers.dataset(object_store, f"{TABLE}@v2.1", tmp_path / "work", data_config="so100_dualcam")
    (info,) = snapshots.list_snapshots(object_store, "dataset")
    assert info.origin == {"hub": TABLE, "revision": COMMIT, "ref": "v2.1", "modality": "added"}
    assert ref.name == TABLE and info.files == len(table) + 1
    assert not list((tmp_path / "work").iterdir())
    # The next machine asks the store, by whichever name it knows the dataset.
    point_at_hub("http://127.0.0.1:9")
    for name in (TABLE, f"{TABLE}@v2.1", f"{TABLE}@{COMMIT}", str(ref)):
        assert importers.dataset(object_store, name, tmp_path / "empty", data_config="so100_dualcam") == ref
        assert importers.find(object_store, "dataset", name) == ref


def test_a_base_model_in_the_store_is_never_asked_of_the_hub_again(object_store, point_at_hub, tmp_path):
    files = {"config.json": b"{}", "model.safetensors": b"w" * 3000}
    with hub({"models/nvidia/GR00T-N1.5-3B": files}) as (address, _):
        point_at_hub(address)
        ref = importers.base_model(object_store, "nvidia/GR00T-N1.5-3B", tmp_path / "first")
    # The second machine: an empty home, and the hub is down.
    point_at_hub("http://127.0.0.1:9")
    assert importers.base_model(object_store, "nvidia/GR00T-N1.5-3B", tmp_path / "second") == ref
    assert (
        snapshots.pull(object_store, ref, tmp_path / "model").joinpath("model.safetensors").read_bytes() == b"w" * 3000
    )
    with pytest.raises(UsageError, match="the Hugging Face hub does not provide it"):
        importers.base_model(object_store, "nvidia/GR00T-N1.5-3B", tmp_path / "second", refresh=True)


def test_a_model_that_cant_be_trained_is_refused_before_its_weights_are_fetched(object_store, point_at_hub, tmp_path):
    files = {"config.json": b'{"model_type": "Gr00tN1d6"}', "model.safetensors": b"w" * 3000}
    with hub({"models/somebody/kitchen": files}) as (address, requests):
        point_at_hub(address)
        with pytest.raises(UsageError, match=r"describes GR00T N1\.6, which pippa does not support"):
            importers.base_model(object_store, "somebody/kitchen", tmp_path / "work")
    assert not [request for request in requests if "model.safetensors" in request]


def test_an_n17_gets_the_tokenizer_of_its_backbone_which_is_not_gated(object_store, point_at_hub, tmp_path):
    weights = save({"weight": np.zeros(3000, np.float32)})
    model = {"config.json": b'{"model_type": "Gr00tN1d7"}', "model.safetensors": weights}
    tokenizer = {"tokenizer.json": b"{}", "merges.txt": b"", "model.safetensors": b"w" * 3000}
    repositories = {"models/nvidia/GR00T-N1.7-3B": model, f"models/{N17.tokenizer}": tokenizer}
    with hub(repositories) as (address, requests):
        point_at_hub(address)
        ref = importers.base_model(object_store, "nvidia/GR00T-N1.7-3B", tmp_path / "work")
    (info,) = snapshots.list_snapshots(object_store, "model")
    assert info.origin["tokenizer"] == f"Qwen/Qwen3-VL-2B-Instruct@{COMMIT}"
    assert info.origin["license"] == "NVIDIA Open Model License"
    pulled = snapshots.pull(object_store, ref, tmp_path / "pulled")
    assert sorted(path.name for path in pulled.iterdir()) == sorted([*model, "tokenizer.json", "merges.txt"])
    assert not [request for request in requests if request.startswith("/Qwen") and "model.safetensors" in request]


def test_a_killed_download_is_continued(s3_settings, object_store, table, tmp_path):
    """In a separate process, killed while the hub stalls in the middle of a file."""
    large = "README.bin"
    files = {**table, large: os.urandom(1 << 20)}
    downloads_folder = importers.downloads_folder(tmp_path / "home")

    def had(pattern: str) -> list[Path]:
        return [path for path in downloads_folder.rglob(pattern) if path.is_file()]

    with hub({f"datasets/{TABLE}": files}, stall={large: 1 << 19}) as (address, requests):
        environ = {**os.environ, **s3_settings.to_environ(), "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf")}
        environ |= {"PIPPA_HOME": str(tmp_path / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "60"}
        command = [sys.executable, "-m", "trainer.cli", "prepare", "dataset", TABLE, "--data-config", "so100_dualcam"]
        process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
        while len(had("*.metadata")) < len(table) or not had("*.incomplete"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.kill()
        process.communicate()
        before = len(requests)
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    fetched = [each for each in requests[before:] if "/resolve/" in each]
    assert fetched and all(large in each for each in fetched), "only what was missing came again"
    assert done.stdout.startswith(f"{TABLE}@") and snapshots.latest(object_store, "dataset", TABLE)
    assert not list(downloads_folder.iterdir())


def test_a_file_that_is_not_what_the_hub_says_is_fetched_again(object_store, point_at_hub, table, tmp_path):
    wrong = {path: 1 for path in table if path.endswith(".parquet")}
    said: list[str] = []
    with hub({f"datasets/{TABLE}": table}, corrupt=wrong) as (address, _):
        point_at_hub(address)
        ref = importers.dataset(object_store, TABLE, tmp_path / "work", data_config="so100_dualcam", log=said.append)
    assert any("2 files are not what the hub says" in line for line in said)
    pulled = snapshots.pull(object_store, ref, tmp_path / "pulled")
    assert all((pulled / path).read_bytes() == content for path, content in table.items())


def test_a_file_that_stays_wrong_is_refused(object_store, point_at_hub, table, tmp_path):
    with hub({f"datasets/{TABLE}": table}, corrupt={"meta/tasks.jsonl": 9}) as (address, _):
        point_at_hub(address)
        assert len(table["meta/tasks.jsonl"]) < LARGE  # a small file, which has a git hash only
        with pytest.raises(PippaError, match=r"meta/tasks\.jsonl of .* does not have the hash"):
            importers.dataset(object_store, TABLE, tmp_path / "work")
    assert snapshots.latest(object_store, "dataset", TABLE) is None


def test_progress_is_reported(object_store, point_at_hub, table, tmp_path):
    seen: list[tuple[int, int]] = []
    with hub({f"datasets/{TABLE}": table}) as (address, _):
        point_at_hub(address)
        importers.dataset(object_store, TABLE, tmp_path / "work", report=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0


def test_forgotten_downloads_are_removed_and_those_in_use_are_not(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / "old", (0, 0))
    with downloads.folder_for(tmp_path, "mine", "identity") as folder:
        os.utime(folder, (0, 0))
        with downloads.folder_for(tmp_path, "other", "identity"):
            assert folder.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_without_the_client_the_cure_is_one_that_has_a_store(object_store, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="client is not installed") as refused:
        importers.dataset(object_store, TABLE, tmp_path / "work")
    named = {deployment.name for deployment in deployments("docker", "native")}
    assert {"pull-dataset", "pull-base-model"} <= named
    assert "`pull-dataset` and `pull-base-model`" in refused.value.hint and "compose run" not in refused.value.hint
