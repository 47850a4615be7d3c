"""``N17Config``: every argument of a fine-tuning of GR00T N1.7, declared once.

The fields are those of ``FinetuneConfig`` in upstream's ``gr00t/configs/finetune_config.py`` (commit 626af89), with its
defaults, and after them pippa's own, which work as for N1.5. What a field of N1.5 says in another way is derived from
upstream's: the batch of one GPU, and where metrics go.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.json_schema import SkipJsonSchema

from trainer.config.data_options import DataOptions
from trainer.config.finetune_config import OWN_FIELDS, FinetuneConfig
from trainer.data.data_config import DataConfig
from trainer.data.n17.configs import get_data_config, of_tag, of_upstream_file
from trainer.data.n17.embodiments import registered, tag_of
from trainer.errors import UsageError
from trainer.generation import N17, Generation

N17Tag = Literal[
    "oxe_droid_relative_eef_relative_joint",
    "xdof_relative_eef_relative_joint",
    "xdof_relative_eef_relative_joint_subtask",
    "real_g1_relative_eef_relative_joints",
    "real_r1_pro_sharpa_relative_eef",
    "real_r1_pro_sharpa_relative_eef_human",
    "real_r1_pro_sharpa_relative_eef_maxinsights",
    "real_r1_pro_sharpa_relative_eef_mecka",
    "unitree_g1_full_body_with_waist_height_nav_cmd",
    "unitree_g1_sonic",
    "simpler_env_google",
    "simpler_env_widowx",
    "libero_sim",
    "new_embodiment",
    "robocasa_panda_omron",
    "robocasa_gr1_tabletop",
]

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]

UPSTREAM_ORDER = (
    *("base_model_path", "dataset_path", "embodiment_tag", "modality_config_path"),
    *("tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model"),
    *("state_dropout_prob", "random_rotation_angle", "color_jitter_params", "extra_augmentation_config"),
    *("global_batch_size", "dataloader_num_workers", "learning_rate", "gradient_accumulation_steps"),
    *("output_dir", "experiment_name", "wandb_project", "save_steps", "save_total_limit", "num_gpus", "use_wandb"),
    *("max_steps", "weight_decay", "warmup_ratio", "shard_size", "episode_sampling_rate", "num_shards_per_epoch"),
    *("save_only_model", "skip_weight_loading"),
)
"""The flags of upstream's ``launch_finetune.py``."""
N17_OWN_FIELDS = (
    *("data_config", "lora_rank", "lora_alpha", "lora_dropout", "lora_full_model", "dataloader_prefetch_factor"),
    *("resume", *OWN_FIELDS),
)
"""What upstream's script doesn't take."""
UPSTREAM_HORIZON = 40
"""Upstream's script sets ``max_action_horizon`` to this."""

_GROUPS: dict[str, tuple[str, ...]] = {
    "data": (
        *("dataset_path", "embodiment_tag", "modality_config_path", "data_config", "video_alignment"),
        *("recompute_statistics", "holdout", "exclude_episodes"),
    ),
    "model": (
        *("base_model_path", "tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model"),
        *("lora_rank", "lora_alpha", "lora_dropout", "lora_full_model", "upstream_exact", "skip_weight_loading"),
    ),
    "augmentation": (
        *("state_dropout_prob", "random_rotation_angle", "color_jitter_params", "extra_augmentation_config"),
    ),
    "optimisation": (
        *("global_batch_size", "max_steps", "learning_rate", "weight_decay", "warmup_ratio"),
        "gradient_accumulation_steps",
    ),
    "machine": (
        *("num_gpus", "num_nodes", "fsdp", "fsdp_devices", "dataloader_num_workers", "dataloader_prefetch_factor"),
        *("shard_size", "episode_sampling_rate", "num_shards_per_epoch"),
    ),
    "checkpoints and reports": (
        *("output_dir", "experiment_name", "save_steps", "save_total_limit", "save_only_model", "keep_last"),
        *("keep_every", "evaluate", "resume", "use_wandb", "wandb_project"),
    ),
}


class N17Config(FinetuneConfig):
    """The arguments of one fine-tuning of GR00T N1.7."""

    generation: ClassVar[Generation] = N17
    own_fields: ClassVar[tuple[str, ...]] = N17_OWN_FIELDS
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = _GROUPS
    derived: ClassVar[Mapping[str, str]] = {
        "batch_size": "GR00T N1.7 has --global-batch-size, the samples of all GPUs together.",
        "report_to": "GR00T N1.7 has --use-wandb and --no-use-wandb.",
        "video_backend": "leave it out: GR00T N1.7 has no such flag, and pippa decodes with PyAV.",
        "balance_dataset_weights": "leave it out: GR00T N1.7 draws each step of each dataset alike.",
        "balance_trajectory_weights": "leave it out: GR00T N1.7 draws each step of each dataset alike.",
    }

    decided_by: ClassVar[Mapping[str, str]] = {"batch_size": "global_batch_size"}
    elsewhere: ClassVar[Mapping[str, str]] = {}
    not_upstreams: ClassVar[Mapping[str, str]] = {
        **FinetuneConfig.not_upstreams,
        "lora_rank": "upstream's script for GR00T N1.7 has no LoRA.",
        "dataloader_prefetch_factor": "upstream's script for GR00T N1.7 has no such flag.",
    }
    moved_defaults: ClassVar[Mapping[str, object]] = {}
    typed_otherwise: ClassVar[bool] = True
    images_on_gpu: ClassVar[bool] = False

    output_dir: Annotated[str, Field(min_length=1)] = "./outputs"
    """Folder for checkpoints. A relative one lies in the run's own folder."""

    data_config: str | SkipJsonSchema[DataConfig] = ""
    """Cameras, states and actions to use, instead of those of the embodiment tag: a built-in data config by name, or a
    file that declares one of your own, such as `my_robot.toml`."""

    base_model_path: Annotated[str, Field(min_length=1)] = N17.official
    """Base model: a hub id, a folder, a name in the object store, or `tiny-n17` for one that trains on a CPU."""

    embodiment_tag: N17Tag = "new_embodiment"  # pyrefly: ignore[bad-override]
    """Embodiment tag, by upstream's name or value: which projector of the action head is trained, and, but for
    new_embodiment, the data config."""

    report_to: Literal["wandb", "none"] = "none"  # pyrefly: ignore[bad-override]
    """Where metrics go, as use_wandb says."""

    dataloader_num_workers: Annotated[int, Field(ge=0)] = 2
    """Data loading processes per GPU."""

    tune_visual: bool = False
    """Train the vision tower and its mergers."""

    tune_projector: bool = True
    """Train the encoders of states and actions, the decoder of actions and the position embedding."""

    upstream_exact: bool = False
    """Do as upstream does even where that is worse: attend to padding tokens, take the frames of an episode's end for
    those before its start, clip z-scores of actions. Native engine only."""

    modality_config_path: str | None = None
    """Upstream's Python file that registers the modality config of the embodiment tag. It is read, never run."""

    state_dropout_prob: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the samples whose state the model does not see while it is trained."""

    random_rotation_angle: Annotated[int, Field(ge=0, le=180)] | None = None
    """Degrees that images are turned by at random, at most; by default as the base model's processor says."""

    color_jitter_params: dict[Literal["brightness", "contrast", "saturation", "hue"], Amount] | None = None
    """Colour jitter, as `brightness 0.3 contrast 0.4 saturation 0.5 hue 0.08`; by default as the base model's processor
    says."""

    extra_augmentation_config: str | None = None
    """Mask-based augmentation. Upstream ignores it without a word, so it is refused."""

    global_batch_size: Annotated[int, Field(ge=1)] = 64
    """Samples of one forward and backward pass on all GPUs together; with accumulation a step has that many times
    more."""

    experiment_name: str | None = None
    """Folder inside output_dir for this training."""

    wandb_project: str | None = None
    """W&B project; by default WANDB_PROJECT, or pippa."""

    use_wandb: bool = False
    """Report to W&B. Without a key the run is recorded offline."""

    save_total_limit: Annotated[int, Field(ge=1)] = 5
    """Checkpoints kept on the disk; the object store keeps all, or what keep_last and keep_every say."""

    save_only_model: bool = False
    """Leave the optimizer out of checkpoints. It is refused: such a training can't be continued."""

    shard_size: Annotated[int, Field(ge=1)] = 1024
    """Of upstream's loader. Without effect here: frames come from a cache, and nothing is split into shards."""

    episode_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of upstream's loader. Without effect here."""

    num_shards_per_epoch: Annotated[int, Field(ge=1)] = 100_000
    """Of upstream's loader. Without effect here."""

    skip_weight_loading: bool = False
    """Train from random weights. It is refused: `tiny-n17` tries things out."""

    @model_validator(mode="after")
    def _derive(self) -> N17Config:
        derived = {name: type(self).model_fields[name].default for name in self.derived}
        derived["batch_size"] = max(self.global_batch_size // self.processes, 1)
        derived["report_to"] = "wandb" if self.use_wandb else "none"
        for name in self.model_fields_set & derived.keys():
            if getattr(self, name) != derived[name]:
                raise ValueError(f"{name} can't be set: {self.derived[name]}")
        for name, value in derived.items():
            object.__setattr__(self, name, value)  # frozen for everybody else
        return self

    @model_serializer(mode="wrap")
    def _without_derived(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name not in self.derived}

    @property
    def data_options(self) -> list[DataOptions]:
        """How each of the datasets is read."""
        return [each.model_copy(update={"generation": self.generation.name}) for each in super().data_options]

    @classmethod
    def flag_order(cls) -> Sequence[str]:
        """See ``FinetuneConfig``."""
        return (*UPSTREAM_ORDER, *cls.own_fields)

    def words(self, name: str) -> list[str]:
        """See ``FinetuneConfig``. Several datasets are one word, as upstream's script takes them."""
        if name == "dataset_path":
            return [os.pathsep.join(self.dataset_path)]
        if name == "data_config" and isinstance(config := self.data_config, DataConfig):
            return [config.name] if registered().get(config.name) == config else super().words(name)
        return super().words(name)

    def as_upstream(self, named: Sequence[str]) -> tuple[str, FinetuneConfig, list[str], list[str]]:
        """See ``FinetuneConfig``. The script wants a file for a data config that it does not know."""
        # It doesn't start the processes of several GPUs.
        start = "python" if self.num_gpus == 1 else f"torchrun --nproc_per_node={self.num_gpus}"
        names = [*(name for name in named if name not in self.own_fields), "embodiment_tag", "modality_config_path"]
        data_config, file, comments = get_data_config(self.data_config), self.modality_config_path, []
        if file is None and registered().get(self.embodiment_tag) != data_config:
            if data_config == registered()["so100"]:
                file = "examples/SO100/so100_config.py"
            else:
                file = f"{data_config.name}_config.py"
                comments = [
                    f"# {file} registers the modality config {data_config.name}; upstream has none for this dataset"
                ]
        config = self.model_copy(update={"modality_config_path": file})
        return f"{start} {self.generation.script}", config, names, comments

    def unlike_upstream(self) -> list[str]:
        """See ``FinetuneConfig``."""
        problems = []
        data_config, theirs = get_data_config(self.data_config), registered().get(self.embodiment_tag)
        if theirs not in (None, data_config):
            problems.append(
                f"--data-config {data_config}: upstream has one for {self.embodiment_tag} and registers no other; "
                "--embodiment-tag new_embodiment takes any."
            )
        if data_config.action_horizon > UPSTREAM_HORIZON:
            problems.append(
                f"--data-config {data_config}: predicts {data_config.action_horizon} steps; upstream's script takes "
                f"{UPSTREAM_HORIZON}, whatever the base model says."
            )
        if self.num_gpus > 1:
            problems.append("--num-gpus: upstream's script trains on several by DeepSpeed, whose checkpoints differ.")
        return problems

    def upstream_policy(self, denoising_steps: int) -> str | None:  # noqa: ARG002 - its files say the steps
        """See ``FinetuneConfig``."""
        return (
            "from gr00t.policy.gr00t_policy import Gr00tPolicy\n\n"
            f'policy = Gr00tPolicy({self.embodiment_tag!r}, "./FOLDER", device="cuda:0")'
        )

    def with_batch_size(self, samples: int) -> Self:
        """See ``FinetuneConfig``."""
        return self.model_copy(update={"batch_size": samples, "global_batch_size": samples * self.processes})

    @property
    def checkpoints_kept(self) -> int:
        """See ``FinetuneConfig``."""
        return self.save_total_limit

    @classmethod
    def resolved(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """``values`` as somebody typed them, in the form of the fields, and what is wrong with what they name."""
        values, problems = dict(values), []

        def attempt(flag: str, read: Any) -> Any:
            try:
                return read()
            except (UsageError, ValueError) as error:
                detail = f"{error.message} {error.hint}".rstrip() if isinstance(error, UsageError) else str(error)
                problems.append(f"{flag}: {detail}")
                return None

        paths = values.get("dataset_path")
        if isinstance(paths, list | str):
            # As upstream: several after one another. `s3://` and `git+https://` are addresses.
            texts = [paths] if isinstance(paths, str) else paths
            values["dataset_path"] = [part for text in texts for part in re.split(r":(?!//)", str(text)) if part]
        if isinstance(tag := values.get("embodiment_tag", "new_embodiment"), str):
            tag = attempt("--embodiment-tag", lambda: tag_of(tag))
            values["embodiment_tag"] = tag or "new_embodiment"
        if isinstance(jitter := values.get("color_jitter_params"), list):
            values["color_jitter_params"] = attempt("--color-jitter-params", lambda: _pairs(jitter))
        config, file = values.get("data_config") or "", values.get("modality_config_path")
        if isinstance(config, str) and tag is not None:
            if config and file:
                problems.append("--modality-config-path: --data-config says the same: leave one of them out.")
            elif config:
                values["data_config"] = attempt("--data-config", lambda: get_data_config(config))
            elif file:
                read = lambda: of_upstream_file(str(file), tag)  # noqa: E731
                values["data_config"] = attempt("--modality-config-path", read)
            else:
                values["data_config"] = attempt("--data-config", lambda: of_tag(tag))
            if values["data_config"] is None:
                values["data_config"] = ""  # reported already
        return values, [*problems, *_refused(values)]


def _pairs(words: list[Any]) -> dict[str, Any]:
    """``brightness 0.3 contrast 0.4`` as upstream's tyro reads it, or the same as JSON."""
    if len(words) == 1 and str(words[0]).lstrip().startswith("{"):
        return dict(json.loads(words[0]))
    if len(words) % 2:
        raise ValueError("name each amount: brightness 0.3 contrast 0.4 saturation 0.5 hue 0.08")
    return dict(zip(map(str, words[::2]), words[1::2], strict=True))


_DIVIDED = {"global_batch_size": 64, "num_gpus": 1, "num_nodes": 1}


def _refused(values: Mapping[str, Any]) -> list[str]:
    """What upstream's command line takes and nothing good comes of."""
    found = []
    if values.get("extra_augmentation_config") is not None:
        found.append("--extra-augmentation-config: upstream ignores it from a checkpoint; leave it out.")
    if values.get("skip_weight_loading"):
        found.append("--skip-weight-loading: --base-model-path tiny-n17 tries a training out.")
    if values.get("save_only_model"):
        found.append("--save-only-model: such a training can't be continued; --keep-last 1 saves room in the store.")
    try:
        batch, gpus, nodes = (int(values.get(name, default)) for name, default in _DIVIDED.items())
        if gpus > 0 and nodes > 0 and batch % (gpus * nodes):
            by = f"--num-gpus {gpus}" + (f" on {nodes} machines" if nodes > 1 else "")
            found.append(f"--global-batch-size: {batch} can't be divided by {by}.")
    except (TypeError, ValueError):
        pass  # reported with the fields
    return found
