"""The licence of each model generation's weights, which is not pippa's. NOTICE says the same at length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class License:
    """What NVIDIA publishes the weights of a generation under; what is trained from them is bound by it too."""

    generation: str
    name: str
    terms: str
    url: str

    def __str__(self) -> str:
        return f"The weights of {self.generation} are NVIDIA's, under the {self.name}: {self.terms} ({self.url})."


LICENSES: dict[str, License] = {
    "gr00t_n1_5": License(
        "GR00T N1.5",
        "NVIDIA OneWay Noncommercial License",
        "for research and evaluation, not for commercial use; so is what you train from them",
        "https://developer.download.nvidia.com/licenses/NVIDIA-OneWay-Noncommercial-License-22Mar2022.pdf",
    ),
    "Gr00tN1d7": License(
        "GR00T N1.7",
        "NVIDIA Open Model License",
        "commercial use is allowed; pass on the licence and its attribution with what you train from them",
        "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
    ),
}
"""By ``model_type`` in a model's config.json."""


def license_of(folder: Path) -> License | None:
    """The licence of the weights in ``folder`` by what its config.json says it is; None for another architecture."""
    return LICENSES.get(json.loads((folder / "config.json").read_text()).get("model_type", ""))
