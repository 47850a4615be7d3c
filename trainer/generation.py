"""The generations of GR00T, and which one a base model is of: known from its ``config.json``, or from its name.

No torch here: the command line asks before anything is fetched.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from trainer.errors import UsageError


class License(NamedTuple):
    """What NVIDIA publishes the weights of a generation under, as NOTICE says at length; what is trained from them is
    bound by it too.
    """

    generation: str
    name: str
    terms: str
    url: str

    def __str__(self) -> str:
        return f"The weights of {self.generation} are NVIDIA's, under the {self.name}: {self.terms} ({self.url})."


class Generation(NamedTuple):
    """A generation of GR00T: each has its model, its processing of data and its training flags.

    All that it brings is found from here: its flags in ``trainer.config.generations``, its code by ``module``.
    """

    name: str
    package: str
    """Its own folder, or module, in a room: ``n17`` for ``trainer.gr00t.n17``."""
    model_type: str
    """What ``config.json`` calls it."""
    official: str
    """NVIDIA's base model of it."""
    tiny: str
    """The generated one, which trains on a CPU."""
    tokenizer: str
    """Where its tokenizer is: the official models have none, upstream takes it from its package or a gated repository.

    No revision is pinned: the repositories state none to rely on. What is fetched is checked against the model (the
    image token's id), and a base model in the store keeps the files it was taken in with, and their commit.
    """
    adam_beta1: float
    """AdamW's first beta in upstream's training."""
    undecayed: tuple[str, ...]
    """Names without weight decay in upstream's training, beside those of LayerNorm: patterns, of lower-case names."""
    script: str
    """Upstream's script that trains it."""
    engines: tuple[str, ...]
    """The engines that run that script; none where upstream has no image of ours."""
    license: License
    processor_files: tuple[str, ...] = ()
    """Files beside a checkpoint's weights that say how its data are read, the data config's first."""

    def __str__(self) -> str:
        return f"GR00T {self.name}"

    def module(self, room: str, name: str = "") -> ModuleType:
        """Its module in a room, imported now: ``module("gr00t", "policy")`` of N1.7 is ``trainer.gr00t.n17.policy``.

        ``tests/test_layers.py`` lists what each has to have.
        """
        return importlib.import_module(".".join(filter(None, ("trainer", room, self.package, name))))


N15 = Generation(
    "N1.5",
    "n15",
    "gr00t_n1_5",
    official="nvidia/GR00T-N1.5-3B",
    tiny="tiny",
    tokenizer="lerobot/eagle2hg-processor-groot-n1p5",
    adam_beta1=0.95,
    undecayed=("bias",),  # transformers 4.51
    script="scripts/gr00t_finetune.py",
    engines=("isaac-uv", "isaac-conda"),
    license=License(
        "GR00T N1.5",
        "NVIDIA OneWay Noncommercial License",
        "for research and evaluation, not for commercial use; so is what you train from them",
        "https://developer.download.nvidia.com/licenses/NVIDIA-OneWay-Noncommercial-License-22Mar2022.pdf",
    ),
)
N17 = Generation(
    "N1.7",
    "n17",
    "Gr00tN1d7",
    official="nvidia/GR00T-N1.7-3B",
    tiny="tiny-n17",
    tokenizer="Qwen/Qwen3-VL-2B-Instruct",
    adam_beta1=0.9,
    undecayed=("bias", "layernorm", "rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"),  # transformers 4.57
    script="gr00t/experiment/launch_finetune.py",
    engines=("isaac-n17",),
    license=License(
        "GR00T N1.7",
        "NVIDIA Open Model License",
        "commercial use is allowed; pass on the licence and its attribution with what you train from them",
        "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
    ),
    processor_files=("processor_config.json", "statistics.json", "embodiment_id.json"),
)
GENERATIONS = (N15, N17)
"""Those that pippa knows; N1, N1.6 and N2 have other architectures."""
DEFAULT = N15
"""The one that is meant where neither a model nor a name tells."""


def generation_by_name(name: str) -> Generation:
    """The generation called ``name``, as ``N1.7``. Raises ``KeyError``."""
    return {generation.name: generation for generation in GENERATIONS}[name]


def generation_of(values: Mapping[str, Any], where: str) -> Generation | None:
    """The generation that the values of a ``config.json`` are of; None for a model without a type.

    Raises ``UsageError``, which says what ``where`` is, for a GR00T that pippa does not know and for any other model.
    """
    found = values.get("model_type")
    for generation in GENERATIONS:
        if found == generation.model_type:
            return generation
    if found is None:
        return None
    other = re.fullmatch(r"gr00t[ _-]?n(\d)(?:[d_.](\d))?", str(found), re.IGNORECASE)
    what = f"GR00T N{'.'.join(part for part in other.groups() if part)}" if other else f"a {str(found)[:100]!r} model"
    raise UsageError(
        f"{where} describes {what}, which pippa does not support.",
        f"It knows {' and '.join(f'{each} ({each.official})' for each in GENERATIONS)}, and checkpoints of them.",
    )


def named_generation(name: str) -> Generation | None:
    """The generation that a name tells: a generated model's, or a repository's as NVIDIA names its own:
    ``GR00T-N1.7-3B`` is N1.7.

    Raises ``UsageError`` for one that pippa does not know.
    """
    for generation in GENERATIONS:
        if name.partition("@")[0] == generation.tiny:
            return generation
    found = re.search(r"gr00t-n(\d(?:\.\d)?)(?![\d.])", name, re.IGNORECASE)
    if found is None:
        return None
    known = {generation.name: generation.model_type for generation in GENERATIONS}
    number = found[1]
    return generation_of({"model_type": known.get(f"N{number}", f"gr00t_n{number}")}, f"The name {name}")


def generation_in(folder: Path) -> Generation | None:
    """The generation that ``folder/config.json`` is of; None for a model without a type. Raises ``UsageError`` for
    another model, and for what is not JSON.
    """
    file = folder / "config.json"
    try:
        values = json.loads(file.read_text())
        values.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{file} can't be read as JSON.", "Download the model again.") from error
    return generation_of(values, str(file))


def is_tiny(base_model: str) -> bool:
    """Whether ``base_model`` names a generated one, which trains on a CPU."""
    return base_model.partition("@")[0] in {generation.tiny for generation in GENERATIONS}
