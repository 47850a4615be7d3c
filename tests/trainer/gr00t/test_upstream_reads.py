"""A checkpoint as upstream's classes read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.support.upstream_files import Config, Metadata
from trainer.data.dataset_meta import DatasetMeta
from trainer.data.metadata import build_metadata, write_metadata
from trainer.gr00t.n15.model import GR00TN15, resize_action_head


def test_config_has_upstreams_fields_and_types(tiny: Path, tmp_path: Path) -> None:
    model = GR00TN15.from_pretrained(tiny)
    model.backbone.to(torch.bfloat16)
    model.config.compute_dtype = "bfloat16"  # as a training on a GPU sets it
    resize_action_head(model, action_horizon=8, action_dim=40)
    model.save_pretrained(tmp_path)
    config = Config.model_validate_json((tmp_path / "config.json").read_text())
    assert (config.torch_dtype, config.compute_dtype, config.model_dtype) == ("bfloat16", "bfloat16", "float32")
    head = config.action_head_cfg
    assert (config.action_horizon, head.action_horizon) == (8, 8)
    assert (config.action_dim, head.action_dim, head.max_action_dim) == (40, 40, 40)
    # A second save of what was loaded changes nothing: no field gets lost or converted on the way.
    GR00TN15.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    again = Config.model_validate_json((tmp_path / "again/config.json").read_text())
    # eagle_config says float32 here, and decides what the backbone is loaded as.
    assert again.model_dump() == {**config.model_dump(), "torch_dtype": "float32"}


def test_the_index_describes_the_files(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``total_size`` counts bytes in the dtypes written; each tensor is in the file named, and in no other."""
    monkeypatch.setattr("trainer.gr00t.weights._SHARD_BYTES", 500_000)
    model = GR00TN15.from_pretrained(tiny)
    model.backbone.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index) == {"metadata", "weight_map"} and set(index["metadata"]) == {"total_size"}
    found, total = {}, 0
    files = sorted(tmp_path.glob("*.safetensors"))
    for number, file in enumerate(files, 1):
        assert file.name == f"model-{number:05d}-of-{len(files):05d}.safetensors"
        with safe_open(file, "pt") as tensors:
            assert tensors.metadata() == {"format": "pt"}
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                assert name not in found
                found[name] = file.name
                tensor = tensors.get_tensor(name)
                assert tensor.dtype == (torch.bfloat16 if name.startswith("backbone.") else torch.float32)
                total += tensor.numel() * tensor.element_size()
    assert found == index["weight_map"] and set(found) == set(model.state_dict())
    assert total == index["metadata"]["total_size"]
    assert len(files) > 4


def test_metadata_is_upstreams_byte_for_byte(golden: Path, demo_dataset: Path, tmp_path: Path) -> None:
    """Field order, numbers and the four spaces of ``json.dump(..., indent=4)``."""
    file = write_metadata(tmp_path, build_metadata(DatasetMeta.load(demo_dataset), "new_embodiment"))
    document = json.loads((golden / "dataset_metadata.json").read_text())
    assert file.read_text() == json.dumps({"new_embodiment": document}, indent=4)
    for tag, entry in json.loads(file.read_text()).items():
        assert Metadata.model_validate_json(json.dumps(entry)).embodiment_tag == tag
