"""The generation of a base model is known before anything is downloaded, and decides what can train it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.config.finetune_config import FinetuneConfig
from trainer.config.n17_config import N17Config
from trainer.config.presets import PRESETS
from trainer.data.n17.embodiments import registered
from trainer.errors import UsageError
from trainer.generation import N15, N17
from trainer.importers.generations import generation_called, require_trainable
from trainer.store import snapshots
from trainer.store.folder import FolderStore


def model(folder: Path, **values: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("nvidia/GR00T-N1.5-3B", N15),
        ("nvidia/GR00T-N1.7-3B", N17),
        ("nvidia/GR00T-N1.7-LIBERO@main", N17),
        ("somebody/gr00t-n1.7-kitchen", N17),
        ("tiny", N15),
        ("tiny-n17", N17),
        ("somebody/kitchen", None),
        ("kitchen", None),
    ],
)
def test_a_name_tells(store: FolderStore, name: str, generation: object) -> None:
    assert generation_called(name, store) == generation


@pytest.mark.parametrize("name", ["nvidia/GR00T-N1.6-3B", "nvidia/GR00T-N1-2B", "nvidia/GR00T-N2-3B"])
def test_generations_that_are_not_supported_are_named(store: FolderStore, name: str) -> None:
    number = name.split("-")[1]
    with pytest.raises(UsageError, match=f"GR00T {number}, which pippa does not support"):
        generation_called(name, store)


@pytest.mark.parametrize(
    ("model_type", "what"),
    [("Gr00tN1d6", "GR00T N1.6"), ("gr00t_n1", "GR00T N1"), ("Gr00tN2", "GR00T N2"), ("llama", "a 'llama' model")],
)
def test_a_folder_of_another_model_is_refused(tmp_path: Path, model_type: str, what: str) -> None:
    folder = model(tmp_path / "model", model_type=model_type)
    with pytest.raises(UsageError, match=f"describes {what}, which pippa does not support") as refused:
        generation_called(str(folder), None)
    assert "nvidia/GR00T-N1.5-3B" in refused.value.hint


def test_config_json_tells_of_a_folder_and_of_what_the_store_has(tmp_path: Path, store: FolderStore) -> None:
    """Whatever it is called."""
    folder = model(tmp_path / "gr00t-n1.5-mine", model_type="Gr00tN1d7")
    assert generation_called(str(folder), store) == N17
    ref = snapshots.push(store, folder, "model", "nvidia/GR00T-N1.5-3B", origin={}).ref
    assert generation_called("nvidia/GR00T-N1.5-3B", store) == N17
    snapshots.push(store, folder, "model", "mine", origin={})
    assert generation_called("mine", store) == N17
    assert generation_called(f"mine@{ref.digest}", store) in (N17, None)


def test_another_generation_than_the_presets_is_refused(tmp_path: Path) -> None:
    environ = {"PIPPA_HOME": str(tmp_path)}
    config = FinetuneConfig(dataset_path=["demo"], base_model_path="nvidia/GR00T-N1.7-3B")
    with pytest.raises(UsageError, match=r"--base-model-path nvidia/GR00T-N1\.7-3B is GR00T N1\.7") as refused:
        require_trainable(config, environ=environ)
    assert N15.official in refused.value.hint and "`pippa train so101-n17`" in refused.value.hint
    blog = PRESETS["blog"].config.model_copy(update={"base_model_path": "nvidia/GR00T-N1.7-3B"})
    with pytest.raises(UsageError) as refused:
        require_trainable(blog, environ=environ)
    assert refused.value.hint.startswith("Take a preset that trains GR00T N1.7: `pippa train blog-n17`.")
    other = PRESETS["blog-n17"].config.model_copy(update={"base_model_path": "tiny"})
    with pytest.raises(UsageError, match=r"is GR00T N1\.5; this preset trains GR00T N1\.7"):
        require_trainable(other, environ=environ)
    require_trainable(config.model_copy(update={"base_model_path": N15.official}), environ=environ)


def test_the_horizon_that_is_too_long_is_the_base_models(tmp_path: Path, store: FolderStore) -> None:
    """Of one that is known: NVIDIA's, a folder, or in the store."""
    folder = model(tmp_path / "longer", model_type="Gr00tN1d7", action_horizon=48)
    snapshots.push(store, folder, "model", "longer", origin={})
    config = N17Config(
        dataset_path=["demo"], data_config=registered()["unitree_g1_full_body_with_waist_height_nav_cmd"]
    )
    for name, limit in (("nvidia/GR00T-N1.7-3B", 40), ("tiny-n17", 40), (str(folder), 48), ("longer", 48)):
        with pytest.raises(
            UsageError, match=f"predicts 50 steps at once; the base model {name} predicts at most {limit}"
        ):
            require_trainable(config.model_copy(update={"base_model_path": name}), store)
    (folder / "config.json").write_text('{"model_type": "Gr00tN1d7", "action_horizon": 50}')
    for name in (str(folder), "somebody/gr00t-n1.7-of-50-steps"):
        require_trainable(config.model_copy(update={"base_model_path": name}), store)


def test_a_data_config_that_only_another_generation_can_do_is_refused(tmp_path: Path) -> None:
    declaration = {
        "name": "mine",
        "video": ["front"],
        "state": [{"key": "arm"}],
        "action": [{"key": "arm", "relative_to": "arm"}],
        "language": "annotation.human.task_description",
    }
    config = FinetuneConfig.model_validate({"dataset_path": ["demo"], "data_config": declaration})
    with pytest.raises(UsageError, match=r"GR00T N1\.5 can't do: action\.arm relative to a state"):
        require_trainable(config, environ={"PIPPA_HOME": str(tmp_path)})
