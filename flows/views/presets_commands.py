"""The full command of each preset: for a terminal, and for the page docs/presets.md."""

from __future__ import annotations

from collections.abc import Sequence

from flows.views.dry_run import upstream_command_text
from flows.views.presets_table import comparison_markdown
from trainer.config.presets import Preset


def full_command(preset: Preset) -> str:
    """What trains the preset in a checkout of Isaac-GR00T; ``pippa train PRESET`` does the same."""
    return upstream_command_text(preset.config, dict.fromkeys(preset.arguments, "preset"))


def page(presets: Sequence[Preset]) -> str:
    """What the presets differ in, and the full command of each, as a page."""
    parts = [
        comparison_markdown(presets),
        "## Full commands",
        "In a checkout of Isaac-GR00T, in the preset's environment:",
    ]
    for preset in presets:
        parts += [f"### {preset.name}", f"{preset.summary} With pippa: `pippa train {preset.name}`."]
        parts.append(f"```sh\n{full_command(preset)}\n```")
    return "\n\n".join(parts)
