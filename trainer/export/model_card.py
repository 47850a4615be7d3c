"""The model card of an exported checkpoint: Hugging Face's metadata, and what a stranger needs to know to use it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.argv import to_argv
from trainer.config.presets import PRESETS, goal_of
from trainer.config.run_spec import RunSpec, SnapshotRef
from trainer.data.config_file import to_toml
from trainer.data.data_config import DataConfig
from trainer.data.policy_config import PolicyConfig, read_policy_config
from trainer.errors import UsageError
from trainer.evaluation.verdict import verdict
from trainer.generation import Generation, License
from trainer.store.registry import CheckpointEntry

_NEVER = {
    *("output_dir", "resume", "report_to", "evaluate", "keep_last", "keep_every", "save_total_limit"),
    *("use_wandb", "wandb_project", "experiment_name", "modality_config_path"),
}
"""Arguments that name folders of a training, and nothing of what is trained."""
_OURS = "apache-2.0"
"""Of weights that pippa generates."""


@dataclass(frozen=True)
class Lineage:
    """Where base model and datasets came from."""

    base_model: str
    """Its repository on the hub, or its name in the store."""
    base_revision: str
    base_is_on_hub: bool
    base_is_generated: bool
    """Whether pippa made it: nothing of NVIDIA's weights is in it."""
    generation: Generation | None
    datasets: Sequence[tuple[SnapshotRef, str | None]]
    """Each with its repository on the hub."""

    @property
    def license(self) -> License | None:
        """What the base model's weights are published under; None where they are pippa's own."""
        if self.base_is_generated or self.generation is None:
            return None
        return self.generation.license


def model_card(entry: CheckpointEntry, lineage: Lineage, plots: Sequence[str], folder: Path, *, adapter: bool) -> str:
    """The README.md of ``folder``, which holds the files of ``entry``: metadata in YAML, then Markdown.

    ``plots`` are paths in ``folder``. Raises ``UsageError`` where the Hugging Face client is not installed.
    """
    known = read_policy_config(folder)
    title = f"{entry.spec.name}, step {entry.step}"
    of = f"a fine-tune of [{lineage.base_model}](https://huggingface.co/{lineage.base_model})"
    if not lineage.base_is_on_hub:
        of = f"a fine-tune of the base model {lineage.base_model}"
    what = "LoRA adapters: " if adapter else ""
    reported = command(entry.spec, lineage)
    parts = [
        f"---\n{_metadata(entry, lineage, title, adapter=adapter)}\n---",
        f"# {title}",
        f"{what}{of[0].upper() if not what else of[0]}{of[1:]}, trained and evaluated with pippa.",
        "## Use",
        *(_adapter_use(lineage) if adapter else _use(entry.spec, known, lineage)),
        *_inputs(known),
        "## Training",
        _table(_training(entry, lineage)),
        f"```sh\n{reported}\n```",
        *(_own_data_config(entry.spec) if "--data-config" in reported else ()),
        *_evaluation(entry),
        *(f"![{Path(each).stem.replace('_', ' ')}]({each})" for each in plots),
        "## Lineage",
        _table(_provenance(entry, lineage)),
        "## Licence",
        _licence(lineage),
    ]
    return "\n\n".join(parts) + "\n"


def command(spec: RunSpec, lineage: Lineage) -> str:
    """What trains it again with pippa; datasets and base model by the names that other machines know them by."""
    config = spec.config.model_copy(
        update={
            "dataset_path": [hub or ref.name for ref, hub in lineage.datasets],
            "base_model_path": lineage.base_model,
            **({"data_config": f"{_data_config_name(spec)}.toml"} if _is_own(spec) else {}),
        }
    )
    if spec.preset in PRESETS:
        named, start = {name for name, origin in spec.provenance.items() if origin == "flag"}, [spec.preset]
    else:  # a preset of the user's own, which others don't have
        defaults = type(config).model_fields
        named = {name for name in defaults if getattr(config, name) != defaults[name].default}
        named, start = named | {"dataset_path", "data_config", "base_model_path"}, []
    if "modality_config_path" in named:  # a file of that machine; the data config is what it says
        named = named | {"data_config"}
    argv = to_argv(config, named - _NEVER)
    lines: list[list[str]] = [["pippa", "train", *start]]
    for word in argv:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines)


def _metadata(entry: CheckpointEntry, lineage: Lineage, title: str, *, adapter: bool) -> str:
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ImportError:
        raise UsageError("The Hugging Face client is not installed here.", "In a checkout: `uv sync`.") from None
    license_, found = lineage.license, entry.evaluation
    dataset, hub = lineage.datasets[0]
    results = (
        [
            EvalResult(
                task_type="robotics",
                dataset_type=hub or dataset.name,
                dataset_name=f"{dataset.name}, {found.on}",
                metric_type="mse",
                metric_name="Open-loop MSE",
                metric_value=float(f"{found.mse:.6g}"),
            )
        ]
        if found
        else None
    )
    generation = [f"gr00t-{lineage.generation.name.lower()}"] if lineage.generation else []
    more: dict[str, Any] = (
        {"base_model_relation": "adapter" if adapter else "finetune"} if lineage.base_is_on_hub else {}
    )
    card = ModelCardData(
        license="other" if license_ else _OURS,
        license_name=license_.name.lower().replace(" ", "-") if license_ else None,
        license_link=license_.url if license_ else None,
        base_model=lineage.base_model if lineage.base_is_on_hub else None,
        datasets=[each for _, each in lineage.datasets if each] or None,
        pipeline_tag="robotics",
        library_name="peft" if adapter else "gr00t",
        tags=["robotics", "vision-language-action", *generation, *(["lora"] if adapter else []), "pippa"],
        model_name=title,
        eval_results=results,
        **more,
    )
    return card.to_yaml()


def _use(spec: RunSpec, known: PolicyConfig | None, lineage: Lineage) -> Iterator[str]:
    knows = "; the checkpoint knows its data config" if known else ""
    yield (
        f"With pippa, from this folder or its name on the hub{knows}:\n\n"
        "```sh\npippa serve ./FOLDER\n```\n\n"
        '```python\nimport pippa\n\npolicy = pippa.Policy("./FOLDER")\nactions = policy.get_action(observation)\n```'
    )
    if lineage.base_is_generated:
        return  # Isaac-GR00T knows the backbones and vocabularies of NVIDIA's models alone
    if known is not None and (code := spec.config.upstream_policy(known.denoising_steps)):
        yield f"In a checkout of Isaac-GR00T:\n\n```python\n{code}\n```"


def _adapter_use(lineage: Lineage) -> Iterator[str]:
    yield (
        f"They need the base model, {lineage.base_model}. With peft, on the model as its own library loads it:\n\n"
        "```python\nfrom peft import PeftModel\n\n"
        'model = PeftModel.from_pretrained(base_model, "./FOLDER").merge_and_unload()\n```\n\n'
        "`experiment_cfg/` has the statistics and the data config they were trained with."
    )


def _inputs(known: PolicyConfig | None) -> Iterator[str]:
    """What goes in and what comes out, where the checkpoint says it."""
    if known is None:
        return
    config = known.data_config
    rows = {
        "cameras": ", ".join(f"`video.{key}`" for key in config.video),
        "states": ", ".join(f"`state.{key}`" for key in config.keys("state")),
        "instruction": f"`{config.language}`",
        "actions": ", ".join(f"`action.{key}`" for key in config.keys("action"))
        + f", {known.action_horizon} steps a chunk, in the dataset's own units",
        "embodiment tag": f"`{known.embodiment_tag}`",
    }
    yield _table(rows)


def _training(entry: CheckpointEntry, lineage: Lineage) -> dict[str, str]:
    spec, config = entry.spec, entry.spec.config
    parts = {"projector": config.tune_projector, "diffusion model": config.tune_diffusion_model}
    parts |= {"language model": config.tune_llm, "vision tower": config.tune_visual}
    tuned = ", ".join(name for name, on in parts.items() if on)
    if config.lora_rank:
        tuned = f"LoRA of rank {config.lora_rank}, alpha {config.lora_alpha}"
    return {
        "base model": _linked(lineage.base_model, lineage.base_model if lineage.base_is_on_hub else None),
        "datasets": ", ".join(_linked(ref.name, f"datasets/{hub}" if hub else None) for ref, hub in lineage.datasets),
        "data config": f"`{_data_config_name(spec)}`",
        "preset": spec.preset,
        "tuned": tuned,
        "steps": f"{entry.step:,} of {config.max_steps:,}",
        "global batch": config.global_batch_formula,
        "learning rate": f"{config.learning_rate:g}",
    }


def _own_data_config(spec: RunSpec) -> Iterator[str]:
    if _is_own(spec) and isinstance(spec.config.data_config, DataConfig):
        yield f"`{_data_config_name(spec)}.toml`:\n\n```toml\n{to_toml(spec.config.data_config)}```"


def _evaluation(entry: CheckpointEntry) -> Iterator[str]:
    found = entry.evaluation
    rows: dict[str, str] = {}
    if found is not None:
        rows = {"open-loop MSE": f"{found.mse:.4g}"}
        for title, share in (("of holding still", found.over_hold_still), ("of the mean action", found.over_variance)):
            rows |= {f"… {title}": f"{share:.0%}"} if share is not None else {}
    for title, name in _FIGURES.items():
        rows |= {title: f"{entry.metrics[name]:.4g}"} if name in entry.metrics else {}
    if not rows:
        return
    yield "## Evaluation"
    if found is not None:
        judged = verdict({entry.step: found}, goal_of(entry.spec.preset))
        yield (
            (judged.summary if judged else "")
            + "\n\n"
            + "\n".join(f"- {each}" for each in (judged.reasons if judged else ()))
        )
    yield _table(rows)
    yield (
        "Open loop: at every 16th frame of a recorded episode the policy predicts the next 16 actions, which are "
        "compared with the demonstrated ones. How it does on a robot, only a robot tells."
    )


_FIGURES = {
    "flow-matching loss": "flow_matching_loss",
    "open-loop MSE on training episodes": "training_open_loop_mse",
    "loss of the training, last logged": "loss",
    "closed-loop success rate, in the synthetic scene": "closed_loop_success_rate",
}


def _provenance(entry: CheckpointEntry, lineage: Lineage) -> dict[str, str]:
    spec = entry.spec
    base = lineage.base_revision or spec.base_model.digest
    url = entry.wandb_run or ""
    return {
        "checkpoint": f"`{entry.name}`, snapshot `{entry.snapshot.digest}`",
        "registered": f"{entry.created:%F %R} UTC",
        "base model": f"{lineage.base_model} at `{base}`",
        **{f"dataset {ref.name}": f"snapshot `{ref.digest}`" for ref, _ in lineage.datasets},
        "held out": f"{len(entry.held_out)} episodes" if entry.held_out else "no episode",
        "engine": f"{spec.engine}, pippa {spec.git_sha or 'of unknown commit'}",
        **({"image": f"`{spec.image}`"} if spec.image else {}),
        **({"W&B": url} if url.startswith(("https://", "http://")) else {}),
    }


def _licence(lineage: Lineage) -> str:
    if lineage.base_is_generated:
        return (
            f"The base model {lineage.base_model} is generated by pippa and holds nothing of NVIDIA's weights. What is "
            "here is under the Apache License 2.0, as pippa is."
        )
    if (license_ := lineage.license) is None:
        return "The base model says nothing of its licence; ask its makers before you pass this on."
    return (
        f"{license_} What is trained from them is bound by it too. Licensed by NVIDIA Corporation under the "
        f"{license_.name}."
    )


def _is_own(spec: RunSpec) -> bool:
    return isinstance(spec.config.data_config, DataConfig)


def _data_config_name(spec: RunSpec) -> str:
    config = spec.config.data_config
    return config.name if isinstance(config, DataConfig) else config


def _linked(text: str, path: str | None) -> str:
    return f"[{text}](https://huggingface.co/{path})" if path else text


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {title} | {value.replace('|', chr(92) + '|')} |" for title, value in rows.items())]
    )
