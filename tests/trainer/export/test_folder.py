"""An exported checkpoint: it loads here and upstream, has a card, and nothing of the machine that trained it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file

from flows.cli import build_parser
from tests.support.n17 import trained_n17
from tests.support.upstream_files import Config, Metadata
from tests.trainer.export.conftest import BASE, Exported
from trainer.config.training_flags import asked
from trainer.errors import DamagedObjectError, UsageError
from trainer.export.folder import export
from trainer.export.model_card import Lineage, command
from trainer.gr00t.n15.model import GR00TN15
from trainer.gr00t.policy import Policy
from trainer.store import snapshots
from trainer.store.folder import FolderStore
from trainer.store.manifest import blob_key, read_manifest


@pytest.fixture(scope="module")
def folder(trained: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("export") / "policy"
    export(trained.store, trained.entry, made)
    return made


@pytest.fixture(scope="module")
def adapter(trained: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("export") / "adapter"
    export(trained.store, trained.entry, made, adapter=True)
    return made


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_it_acts_as_the_checkpoint_does(trained, folder):
    answers = []
    for place in (trained.checkpoint, folder):
        policy = Policy(place, device="cpu")
        noise = np.random.default_rng(0).standard_normal(policy.noise_shape)
        answers.append(policy.get_action(policy.example(), noise))
    for name, action in answers[0].items():
        np.testing.assert_array_equal(answers[1][name], action)


def test_upstream_reads_it(folder):
    Config.model_validate_json((folder / "config.json").read_text())
    for entry in json.loads((folder / "experiment_cfg" / "metadata.json").read_text()).values():
        Metadata.model_validate_json(json.dumps(entry))
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name: file.name for file in folder.glob("*.safetensors") for name in load_file(file)} == index


def test_only_what_loading_needs_leaves_the_store(trained, folder):
    assert {"optimizer.pt", "scheduler.pt", "trainer_state.json"} < files(trained.checkpoint)
    assert files(folder) == {
        *("README.md", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"),
        *(f"model-0000{number}-of-00002.safetensors" for number in (1, 2)),
        *("experiment_cfg/metadata.json", "experiment_cfg/policy.json"),
        *("plots/loss.png", "plots/open_loop_episode_0.png"),
    }


@pytest.mark.parametrize("kind", ["folder", "adapter"])
def test_no_path_of_this_machine_is_in_it(trained, kind, request):
    made = request.getfixturevalue(kind)
    config = json.loads((trained.checkpoint / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(trained.base_model)  # there is something to leave out
    home = str(trained.place).encode()
    assert not [file for file in files(made) if home in (made / file).read_bytes()]
    assert not list(made.parent.glob(".*"))


def test_the_adapters_alone_make_the_merged_model(trained, folder, adapter):
    assert files(adapter) == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors"),
        *("experiment_cfg/metadata.json", "experiment_cfg/policy.json"),
        *("plots/loss.png", "plots/open_loop_episode_0.png"),
    }
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == BASE
    merged = GR00TN15.from_pretrained(folder).state_dict()
    base = GR00TN15.from_pretrained(trained.base_model)
    theirs = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().state_dict()
    assert theirs.keys() == merged.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-6, rtol=1e-5)


def test_the_adapters_of_n17_come_with_its_statistics(trained, tmp_path):
    checkpoint = trained_n17(tmp_path, trained.place / "data", lora_rank=4)
    pushed = snapshots.push(trained.store, checkpoint, "checkpoint", "newer")
    made = tmp_path / "adapter"
    export(trained.store, trained.entry.model_copy(update={"snapshot": pushed.ref}), made, adapter=True)
    assert {"adapter_model.safetensors", "processor_config.json", "statistics.json"} <= files(made)
    assert "config.json" not in files(made) and "model.safetensors.index.json" not in files(made)


def test_the_card_says_where_it_comes_from(folder, adapter):
    card = ModelCard.load(folder / "README.md")
    found = card.data.to_dict()
    assert (
        found.items()
        >= {
            "base_model": BASE,
            "base_model_relation": "finetune",
            "datasets": ["me/pick-place"],
            "license": "other",
            "license_name": "nvidia-oneway-noncommercial-license",
            "library_name": "gr00t",
            "pipeline_tag": "robotics",
        }.items()
    )
    assert found["license_link"].startswith("https://developer.download.nvidia.com/")
    for said in ("not for commercial use", "c0ffee", "plots/open_loop_episode_0.png", "LoRA of rank 4", "GR00T N1.5"):
        assert said in card.text, said
    shown = set(re.findall(r"\]\((plots/[^)]+)\)", card.text))
    assert shown == {name for name in files(folder) if name.startswith("plots/")}
    lora = ModelCard.load(adapter / "README.md").data.to_dict()
    assert (lora["library_name"], lora["base_model_relation"]) == ("peft", "adapter")


@pytest.mark.parametrize("preset", ["smoke", "a-preset-of-my-own"])
def test_its_command_trains_the_same_again(trained, preset):
    spec = trained.entry.spec.model_copy(update={"preset": preset})
    words = shlex.split(command(spec, _lineage(trained)).replace("\\\n", " "))
    assert words[:2] == ["pippa", "train"]
    _, config, _ = asked(build_parser(words[1:]).parse_args(words[1:]), "pippa train")[0]
    expected = {"dataset_path": ["me/pick-place"], "base_model_path": BASE}
    where = {"output_dir", "report_to"}
    assert config.model_dump(exclude=where) == spec.config.model_copy(update=expected).model_dump(exclude=where)


def _lineage(trained: Exported) -> Lineage:
    return Lineage(BASE, "c0ffee", True, False, None, [(trained.entry.spec.datasets[0], "me/pick-place")])


def test_the_weights_that_pippa_generates_are_no_ones(trained, tmp_path):
    generated = snapshots.push(trained.store, trained.base_model, "model", "tiny", origin={"generator": "it"}).ref
    spec = trained.entry.spec.model_copy(update={"base_model": generated})
    export(trained.store, trained.entry.model_copy(update={"spec": spec}), tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    found = card.data.to_dict()
    assert found["license"] == "apache-2.0" and "base_model" not in found and "NVIDIA's weights" in card.text


def test_what_cant_be_exported_leaves_no_folder(trained, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    with pytest.raises(UsageError, match="is not an empty folder"):
        export(trained.store, trained.entry, tmp_path / "there")
    whole = snapshots.push(trained.store, trained.base_model, "checkpoint", trained.entry.run_id).ref
    with pytest.raises(UsageError, match="has no LoRA adapters"):
        export(trained.store, trained.entry.model_copy(update={"snapshot": whole}), tmp_path / "adapter", adapter=True)
    damaged = FolderStore(Path(shutil.copytree(trained.place / "home" / "store", tmp_path / "store")))
    weights = next(file for file in read_manifest(damaged, trained.entry.snapshot).files if "00002" in file.path)
    damaged.delete(blob_key(weights.sha256))
    with pytest.raises(DamagedObjectError):
        export(damaged, trained.entry, tmp_path / "damaged")
    assert {each.name for each in tmp_path.iterdir()} == {"there", "store"}
