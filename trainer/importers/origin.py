"""A snapshot's origin, as people read it."""

from __future__ import annotations

from collections.abc import Mapping


def origin_text(origin: Mapping[str, str]) -> str:
    """Where a snapshot came from, at which revision, what was changed on the way, and its licence."""
    if "hub" in origin:
        text = f"Hugging Face hub {origin['hub']}{_revision(origin)}"
    elif "git" in origin:
        text = f"git {origin['git']}{_revision(origin)} {origin.get('path', '')}".rstrip()
    elif "s3" in origin:
        text = f"{origin['s3']} at {origin.get('endpoint', 'the object store')}{_revision(origin)}"
    elif "folder" in origin:
        text = f"folder {origin['folder']}"
    elif "generator" in origin:
        text = "generated"
    else:
        text = ", ".join(f"{name} {value}" for name, value in origin.items())
    return "; ".join([text, *changes_text(origin), *([origin["license"]] if "license" in origin else [])])


def changes_text(origin: Mapping[str, str]) -> list[str]:
    """What was changed: layout, modality, tokenizer."""
    known = {
        "converted": "converted from {}",
        "modality": "meta/modality.json {}",
        "tokenizer": "tokenizer of {}",
    }
    return [text.format(origin[name]) for name, text in known.items() if name in origin]


def _revision(origin: Mapping[str, str]) -> str:
    commit = origin.get("revision", "")[:12]
    if ref := origin.get("ref"):
        return f" @ {ref} ({commit})"
    return f" @ {commit}" if commit else ""
