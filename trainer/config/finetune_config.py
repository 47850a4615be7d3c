"""``FinetuneConfig``: every argument of a fine-tuning, declared once.

The fields are those of ``ArgsConfig`` in upstream's ``scripts/gr00t_finetune.py`` (branch ``n1.5-release``), and after
them ``OWN_FIELDS``, which upstream lacks; of those, ``RUN_FIELDS`` say what the run keeps and evaluates.
The flags of ``pippa train`` and ``trainer finetune``, the form in the Prefect UI, the argv an engine gets, the table of
``pippa presets compare`` and the docs all come from this class. Defaults are upstream's of mid-2025, when the recipes
were written; upstream has since moved ``save_steps`` to 3000, ``dataloader_num_workers`` to 12 and ``video_backend``
to torchcodec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_serializer, field_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema

from trainer.config.data_options import DataOptions, VideoAlignment
from trainer.data.config_file import as_argument, from_text, to_document
from trainer.data.configs import DATA_CONFIGS, declared
from trainer.data.data_config import DataConfig
from trainer.data.exclusion import as_texts, of_dataset, parse_exclusion
from trainer.data.holdout_rule import NO_HOLDOUT, parse_holdout
from trainer.errors import UsageError
from trainer.generation import N15, Generation

EmbodimentTag = Literal["gr1", "oxe_droid", "agibot_genie1", "new_embodiment"]
VideoBackend = Literal["torchcodec", "decord", "torchvision_av"]
ReportTo = Literal["wandb", "tensorboard", "azure_ml"]
Evaluate = Literal["every", "last", "none"]

LOGGING_STEPS = 10
"""Steps between two logged losses, of every engine: upstream's script sets it, and has no flag for it."""
CHECKPOINTS_KEPT = 5
"""Complete checkpoints kept on disk, as upstream's ``save_total_limit``; the object store keeps them all."""
UPSTREAM_DEFAULTS: Mapping[str, object] = {
    "save_steps": 3000,
    "dataloader_num_workers": 12,
    "video_backend": "torchcodec",
}
"""Upstream's defaults today (branch ``n1.5-release``) that are not those of ``FinetuneConfig``."""


RUN_FIELDS = ("evaluate", "keep_last", "keep_every")
"""For the run around the engine, which never hears of them."""
OWN_FIELDS = (
    "num_nodes",
    "fsdp",
    "fsdp_devices",
    "video_alignment",
    "recompute_statistics",
    "upstream_exact",
    "holdout",
    "exclude_episodes",
    *RUN_FIELDS,
)
"""What upstream's script doesn't take."""

GROUPS: dict[str, tuple[str, ...]] = {
    "data": (
        "dataset_path",
        "data_config",
        "embodiment_tag",
        "video_alignment",
        "recompute_statistics",
        "holdout",
        "exclude_episodes",
        "balance_dataset_weights",
        "balance_trajectory_weights",
    ),
    "model": (
        "base_model_path",
        "tune_llm",
        "tune_visual",
        "tune_projector",
        "tune_diffusion_model",
        "lora_rank",
        "lora_alpha",
        "lora_dropout",
        "lora_full_model",
        "upstream_exact",
    ),
    "optimisation": (
        "batch_size",
        "max_steps",
        "learning_rate",
        "weight_decay",
        "warmup_ratio",
        "gradient_accumulation_steps",
    ),
    "machine": (
        "num_gpus",
        "num_nodes",
        "fsdp",
        "fsdp_devices",
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
        "video_backend",
    ),
    "checkpoints and reports": (
        "output_dir",
        "save_steps",
        "keep_last",
        "keep_every",
        "evaluate",
        "resume",
        "report_to",
    ),
}
"""Every field, in the groups that ``--help`` shows."""


class FinetuneConfig(BaseModel):
    """The arguments of one fine-tuning of GR00T N1.5, in upstream's names and order.

    Those of the other generations derive from it (``trainer.config.generations``). What they share means the same, so
    that all but the engine reads any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    generation: ClassVar[Generation] = N15
    own_fields: ClassVar[tuple[str, ...]] = OWN_FIELDS
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = GROUPS
    derived: ClassVar[Mapping[str, str]] = {}
    """Fields that no flag sets, since others decide them, and what to write instead."""
    decided_by: ClassVar[Mapping[str, str]] = {}
    """Of those, the field that decides it, where the flag of that one is to be named."""
    elsewhere: ClassVar[Mapping[str, str]] = {
        "global_batch_size": "GR00T N1.5 has --batch-size, the samples of each GPU.",
        "use_wandb": "GR00T N1.5 has --report-to wandb.",
        "modality_config_path": "GR00T N1.5 has --data-config.",
        "experiment_name": "name the whole folder with --output-dir; --name names the run.",
        "wandb_project": "set WANDB_PROJECT.",
        "save_total_limit": "five checkpoints are kept on the disk.",
    }
    """Flags of other generations, and what to write instead."""
    not_upstreams: ClassVar[Mapping[str, str]] = {
        "num_nodes": "upstream trains on one machine.",
        "fsdp": "upstream trains with the whole model on each GPU.",
        "fsdp_devices": "upstream trains with the whole model on each GPU.",
        "video_alignment": "upstream finds a row's frame by its timestamp.",
        "recompute_statistics": "upstream normalises with what meta/stats.json says.",
        "upstream_exact": "upstream's engine is that already: leave the flag out.",
        "holdout": "upstream trains on every episode.",
        "exclude_episodes": "upstream trains on every episode.",
    }
    """Fields that an engine of upstream can't have another value of than the default, and why."""
    moved_defaults: ClassVar[Mapping[str, object]] = UPSTREAM_DEFAULTS
    """Upstream's defaults of today that are not those of this class."""
    typed_otherwise: ClassVar[bool] = False
    """Whether what somebody types has another form than the fields, into which ``resolved`` brings it."""
    images_on_gpu: ClassVar[bool] = True
    """Whether a GPU that trains also processes the images."""

    dataset_path: Annotated[list[str], Field(min_length=1)]
    """Datasets to train on: names in the object store, hub ids or folders. More than one makes a mixture."""

    output_dir: Annotated[str, Field(min_length=1)] = "/tmp/gr00t"  # noqa: S108 - upstream's default
    """Folder for checkpoints. A relative one lies in the run's own folder."""

    data_config: Annotated[str, Field(min_length=1)] | SkipJsonSchema[DataConfig] = "fourier_gr1_arms_only"
    """Cameras, states and actions to use: a built-in data config by name, or a file that declares one of your own, such
    as `my_robot.toml` (or `module.path:NAME` of a Python module)."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Samples per GPU and step. The global batch is this x num_gpus x num_nodes x gradient_accumulation_steps."""

    max_steps: Annotated[int, Field(ge=1)] = 10_000
    """Optimizer steps."""

    num_gpus: Annotated[int, Field(ge=1)] = 1
    """GPUs to train on, on each machine."""

    save_steps: Annotated[int, Field(ge=1)] = 1000
    """Steps between two checkpoints."""

    base_model_path: Annotated[str, Field(min_length=1)] = "nvidia/GR00T-N1.5-3B"
    """Base model: a hub id, a folder, a name in the object store, or `tiny` for one that trains on a CPU."""

    tune_llm: bool = False
    """Train the language model of the backbone."""

    tune_visual: bool = False
    """Train the vision tower and its connector."""

    tune_projector: bool = True
    """Train the state encoder, the action encoder and decoder of the embodiment, and the position embedding."""

    tune_diffusion_model: bool = True
    """Train the diffusion transformer (DiT) of the action head."""

    resume: bool = False
    """Continue from the latest checkpoint in output_dir."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Peak learning rate of AdamW; linear warmup, then a cosine to zero."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-5
    """Weight decay of AdamW (not applied to biases and LayerNorm)."""

    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of max_steps spent warming up."""

    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of the LoRA adapters; 0 trains without LoRA."""

    lora_alpha: Annotated[int, Field(ge=1)] = 16
    """LoRA alpha: the adapters' output is scaled by alpha / rank."""

    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout before the LoRA adapters."""

    lora_full_model: bool = False
    """Put LoRA adapters in the backbone too, not only in the action head."""

    dataloader_num_workers: Annotated[int, Field(ge=0)] = 8
    """Data loading processes per GPU."""

    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Forward and backward passes per optimizer step."""

    dataloader_prefetch_factor: Annotated[int, Field(ge=1)] = 4
    """Batches each data loading process prepares ahead."""

    report_to: ReportTo = "wandb"
    """Where metrics go. Without a W&B key the run is recorded offline."""

    embodiment_tag: EmbodimentTag = "new_embodiment"
    """Embodiment tag: which projector of the action head is trained, and the key of the dataset's statistics."""

    video_backend: VideoBackend = "decord"
    """Video decoder of the upstream engines. The native engine decodes with PyAV whichever is named."""

    balance_dataset_weights: bool = True
    """Mixtures: draw from each dataset in proportion to its length."""

    balance_trajectory_weights: bool = True
    """Mixtures: draw each trajectory in proportion to its length."""

    num_nodes: Annotated[int, Field(ge=1)] = 1
    """Machines that train together, each with num_gpus GPUs; start the same command on each of them."""

    fsdp: bool = False
    """Divide parameters, gradients and optimizer state between the GPUs (FSDP2): for a model that does not fit one. The
    result is the same, a step takes longer."""

    fsdp_devices: Annotated[int, Field(ge=0)] = 0
    """With fsdp: how many GPUs divide a copy of the model between them; 0 means all, of all machines. With the GPUs of
    one machine only gradients cross the network (hybrid sharding)."""

    video_alignment: VideoAlignment = "timestamp"
    """A row's frame: the one at its `timestamp`, or by `index`, row k to frame k, where only the clock is wrong."""

    recompute_statistics: bool = False
    """Normalise with statistics computed from the data, though meta/stats.json has some."""

    upstream_exact: bool = False
    """Do as upstream does even where that is worse: attend to padding tokens, so that a sample's result depends on its
    batch, and with lora_rank leave the embodiment's projector untrained. Native engine only."""

    holdout: str = NO_HOLDOUT
    """Episodes to keep out of training and statistics and to evaluate on: a share (`0.1`), a count (`5`) or a list
    (`3,17`). Each is chosen by its own content, so that added data moves none across."""

    exclude_episodes: list[str] = []
    """Episodes to leave out altogether, from training, statistics and holdout: `3 17 40-44`. Of several datasets by
    their place: `2:17`. `pippa data show` finds those that deserve it."""

    evaluate: Evaluate = "every"
    """Checkpoints to evaluate after the training: every one of them (intermediate ones on two episodes), the last, or
    none."""

    keep_last: Annotated[int, Field(ge=0)] = 0
    """Keep the newest K of the run's checkpoints in the object store, and those with an alias; 0 keeps all."""

    keep_every: Annotated[int, Field(ge=0)] = 0
    """Keep each checkpoint whose step is a multiple of N, the newest, and those with an alias; 0 keeps all."""

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """The fields that are flags."""
        return {name: field for name, field in cls.model_fields.items() if name not in cls.derived}

    @classmethod
    def resolved(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """``values`` as somebody typed them, with what they name read from its files, and what is wrong with those.

        From here on the declarations themselves travel.
        """
        try:
            if isinstance(name := values.get("data_config"), str):
                return {**values, "data_config": declared(name)}, []
        except UsageError as error:
            return dict(values), [f"--data-config: {error.message} {error.hint}".rstrip()]
        return dict(values), []

    @classmethod
    def flag_order(cls) -> Sequence[str]:
        """The fields in the order of upstream's command line, pippa's own last."""
        return tuple(cls.fields())

    def words(self, name: str) -> list[str]:
        """The value of a field that is set and not a switch, as the words after its flag."""
        value = getattr(self, name)
        if isinstance(value, dict):
            return [text for pair in value.items() for text in map(str, pair)]
        if isinstance(value, list):
            return value
        if name == "data_config":
            return [as_argument(value)]
        return [repr(value) if isinstance(value, float) else str(value)]

    def as_upstream(self, named: Sequence[str]) -> tuple[str, FinetuneConfig, list[str], list[str]]:
        """How upstream's script is started for this training, given the fields to name: the program, the configuration
        as it takes it, the fields, and comments for who reads it.
        """
        return f"python {self.generation.script}", self, list(named), []

    def unlike_upstream(self) -> list[str]:
        """What upstream's script takes and then fails on."""
        problems = []
        if self.dataloader_num_workers == 0:
            problems.append(
                "--dataloader-num-workers 0: upstream always passes a prefetch factor, which needs a worker."
            )
        if self.report_to == "azure_ml":
            problems.append("--report-to azure_ml: upstream's environment has no Azure ML; wandb and tensorboard work.")
        if self.data_config not in DATA_CONFIGS:
            problems.append(
                f"--data-config {self.data_config}: upstream's own data configs are classes of its transforms, pippa's "
                "are declarations; upstream knows the built-in ones alone."
            )
        return problems

    def upstream_policy(self, denoising_steps: int) -> str | None:
        """Python that loads a checkpoint of this training, in ``./FOLDER``, with upstream's code; None where that does
        not know the data config.
        """
        if not isinstance(self.data_config, str):
            return None
        return (
            "from gr00t.experiment.data_config import DATA_CONFIG_MAP\n"
            "from gr00t.model.policy import Gr00tPolicy\n\n"
            f"config = DATA_CONFIG_MAP[{self.data_config!r}]\n"
            "policy = Gr00tPolicy(\n"
            '    model_path="./FOLDER",\n'
            "    modality_config=config.modality_config(),\n"
            "    modality_transform=config.transform(),\n"
            f"    embodiment_tag={self.embodiment_tag!r},\n"
            f"    denoising_steps={denoising_steps},\n"
            ")"
        )

    def with_batch_size(self, samples: int) -> Self:
        """The same training with so many samples on each GPU."""
        return self.model_copy(update={"batch_size": samples})

    @property
    def checkpoints_kept(self) -> int:
        """Complete checkpoints that stay on the disk."""
        return CHECKPOINTS_KEPT

    @property
    def processes(self) -> int:
        """GPUs of all machines together: one process each."""
        return self.num_gpus * self.num_nodes

    @property
    def shards(self) -> int:
        """GPUs that divide a copy of the model between them: 1 without FSDP."""
        return (self.fsdp_devices or self.processes) if self.fsdp else 1

    @property
    def global_batch(self) -> int:
        """Samples that one optimizer step sees."""
        return self.batch_size * self.processes * self.gradient_accumulation_steps

    @property
    def global_batch_formula(self) -> str:
        """The global batch and what makes it: ``32 = 8 × 2 GPUs × 2 nodes``."""
        factors = {"GPUs": self.num_gpus, "nodes": self.num_nodes, "accumulated": self.gradient_accumulation_steps}
        product = [str(self.batch_size), *(f"{count} {name}" for name, count in factors.items() if count > 1)]
        return str(self.global_batch) + (f" = {' × '.join(product)}" if len(product) > 1 else "")

    @property
    def data_options(self) -> list[DataOptions]:
        """How each of the datasets is read."""
        count = len(self.dataset_path)
        return [
            DataOptions(
                video_alignment=self.video_alignment,
                recompute_statistics=self.recompute_statistics,
                exclude_episodes=of_dataset(self.exclude_episodes, number, count),
            )
            for number in range(1, count + 1)
        ]

    @field_validator("data_config")
    @classmethod
    def _is_a_declaration(cls, value: str | DataConfig) -> str | DataConfig:
        """A declaration as text, which is how it comes through a form of strings."""
        text = isinstance(value, str) and value.lstrip().startswith("{")
        return from_text(str(value), "data_config") if text else value

    @field_validator("fsdp")
    @classmethod
    def _has_several_gpus(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("num_gpus", 2) * info.data.get("num_nodes", 2) == 1:
            raise ValueError("one GPU can't divide the model: --no-fsdp, or --num-gpus 2 or more")
        return value

    @field_validator("fsdp_devices")
    @classmethod
    def _makes_equal_groups(cls, value: int, info: ValidationInfo) -> int:
        gpus = info.data.get("num_gpus", 1) * info.data.get("num_nodes", 1)
        if value and not info.data.get("fsdp", True):
            raise ValueError("it says how --fsdp divides the model: give that too")
        if value and (value == 1 or gpus % value):
            raise ValueError(f"{gpus} GPUs make no groups of that many: take a divisor of {gpus} above 1")
        return value

    @field_validator("holdout")
    @classmethod
    def _is_a_rule(cls, value: str) -> str:
        parse_holdout(value)
        return value

    @field_validator("exclude_episodes", mode="before")
    @classmethod
    def _in_one_form(cls, value: Any, info: ValidationInfo) -> Any:
        """What means the same is equal; a text does as well, as from a form."""
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(each, str | int) for each in texts):
            return value  # pydantic says what is wrong
        datasets = len(info.data.get("dataset_path") or ["…"])
        return as_texts(parse_exclusion(map(str, texts), datasets), datasets)

    @field_serializer("data_config")
    def _as_data(self, value: str | DataConfig) -> str | dict[str, Any]:
        return value if isinstance(value, str) else to_document(value)
