"""``trainer run`` around upstream's script for N1.7 and its output directory, by the stand-in, without a container."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tyro

from flows.cli import dispatch
from tests.support.isaac.expected import check_run, events_of, flags_of
from tests.support.isaac.repository import make_sources
from tests.support.waiting import PATIENCE
from trainer.config.argv import require_engine_can, resolve
from trainer.config.n17_config import UPSTREAM_ORDER, N17Config
from trainer.config.presets import PRESETS
from trainer.data.n17.embodiments import PROJECTOR_INDEX, name_of, registered, tag_of
from trainer.data.n17.modality_module import to_python
from trainer.data.n17.upstream_file import read_file
from trainer.errors import UsageError
from trainer.generation import N17
from trainer.runner import isaac_n17

OF_N17 = [name for name, preset in PRESETS.items() if preset.kind.generation == N17]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory) -> Path:
    return make_sources(tmp_path_factory.mktemp("upstream") / "Isaac-GR00T", "isaac-n17")


@pytest.mark.slow
def test_a_whole_run_is_like_a_native_one(store, bucket, upstream, tmp_path):
    home = tmp_path / "home"
    evaluate = f"{sys.executable} -m trainer.evaluation.upstream {sys.executable}"
    environ = {
        **{name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ},
        **bucket.to_environ(),
        "HOME": str(tmp_path),
        "PIPPA_HOME": str(home),
        "PIPPA_ENGINE": "isaac-n17",
        "PIPPA_FINETUNE_COMMAND": f"{sys.executable} {upstream / 'gr00t/experiment/launch_finetune.py'}",
        "PIPPA_EVALUATE_COMMAND": f"{evaluate} {upstream / 'gr00t/eval/open_loop_eval.py'}",
        "PYTHONPATH": os.pathsep.join([str(upstream), str(Path(__file__).parents[3])]),
    }
    command = [sys.executable, "-m", "trainer.cli", "run", *flags_of("isaac-n17")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    run_id = check_run(store, events_of(done.stdout), "isaac-n17", tmp_path)
    log = (home / "runs" / run_id / "log.txt").read_text()
    assert "--wandb-project pippa" in log and f"Loaded modality config: {home}" in log
    # What it writes beside the data does not reach the dataset in the cache.
    assert not list((home / "cache").rglob("relative_stats.json"))


@pytest.fixture
def script(upstream, monkeypatch) -> Iterator[ModuleType]:
    """Upstream's script, imported."""
    _forget_gr00t()  # N1.5's stand-in has a package of that name too
    monkeypatch.syspath_prepend(upstream)
    spec = importlib.util.spec_from_file_location("launch_finetune", upstream / "gr00t/experiment/launch_finetune.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "launch_finetune", module)  # where its annotations are looked up
    spec.loader.exec_module(module)
    yield module
    _forget_gr00t()


def _forget_gr00t() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "gr00t"]:
        del sys.modules[name]


def test_the_stand_in_has_upstreams_fields_and_defaults(script):
    theirs = {field.name: field.default for field in dataclasses.fields(script.FinetuneConfig)}
    assert list(theirs) == list(UPSTREAM_ORDER)
    # The project is always given; what upstream requires has a default here.
    own = ("base_model_path", "dataset_path", "embodiment_tag", "wandb_project")
    ours = {name: N17Config.model_fields[name].default for name in UPSTREAM_ORDER if name not in own}
    assert {name: value for name, value in theirs.items() if name not in own} == ours


@pytest.mark.parametrize("name", OF_N17)
def test_upstreams_parser_reads_what_the_image_gives_it(script, tmp_path, name):
    config = PRESETS[name].config
    assert isinstance(config, N17Config)
    config = config.model_copy(update={"dataset_path": ["a", "b"]})
    parsed = dataclasses.asdict(tyro.cli(script.FinetuneConfig, args=isaac_n17.arguments(config, tmp_path, "kitchen")))
    file = None if name == "libero-n17" else str(tmp_path / isaac_n17.MODALITY_FILE)
    given = {"dataset_path": "a:b", "wandb_project": "kitchen", "modality_config_path": file}
    assert parsed == {**config.model_dump(include=set(UPSTREAM_ORDER)), **given}


@pytest.mark.parametrize("name", registered())
def test_a_data_config_is_a_module_that_upstream_imports(script, tmp_path, name):
    file = tmp_path / f"{name}.py"
    file.write_text(to_python(registered()[name], "new_embodiment"))
    assert read_file(file) == {"new_embodiment": registered()[name]}
    script.MODALITY_CONFIGS.pop("new_embodiment", None)
    script.load_modality_config(file)
    config = script.MODALITY_CONFIGS["new_embodiment"]
    assert config["video"].modality_keys == list(registered()[name].video)
    assert [each.rep.name == "RELATIVE" for each in config["action"].action_configs] == [
        bool(feature.relative_to) for feature in registered()[name].action
    ]


def test_each_tag_has_its_name_in_upstreams_enum():
    assert name_of("libero_sim") == "LIBERO_PANDA" and name_of("new_embodiment") == "NEW_EMBODIMENT"
    assert all(tag_of(name_of(tag)) == tag for tag in PROJECTOR_INDEX)


@pytest.mark.parametrize(
    ("words", "says", "cure"),
    [
        ("so101-n17 --engine isaac-uv", "--engine isaac-uv trains GR00T N1.5", "--engine isaac-n17"),
        ("blog --engine isaac-n17", "--engine isaac-n17 trains GR00T N1.7", "--engine isaac-uv or isaac-conda"),
        ("libero-n17 --engine isaac-n17", "--num-gpus: upstream's script trains on several", "--engine native"),
        ("so101-n17 --engine isaac-n17 --lora-rank 8", "--lora-rank: upstream's script", "--engine native"),
        ("so101-n17 --engine isaac-n17 --holdout 0.1", "--holdout: upstream trains on every", "--engine native"),
        (
            "libero-n17 --num-gpus 1 --engine isaac-n17 --data-config so100",
            "upstream has one for libero_sim",
            "--engine native",
        ),
    ],
)
def test_what_upstream_cant_train_is_refused_in_the_dry_run(words, says, cure):
    with pytest.raises(UsageError) as refused:
        dispatch(["train", *words.split(), "--launcher", "docker", "--dry-run"])
    assert says in refused.value.message and cure in refused.value.hint


def test_what_upstream_can_train_is_taken():
    require_engine_can(resolve("libero-n17", ["--num-gpus", "1"])[1], "isaac-n17")
    for name in OF_N17:
        if name != "libero-n17":
            require_engine_can(PRESETS[name].config, "isaac-n17")
    assert isaac_n17.own_environ({}) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert isaac_n17.own_environ({"CUDA_VISIBLE_DEVICES": "3"}) == {"CUDA_VISIBLE_DEVICES": "3"}
