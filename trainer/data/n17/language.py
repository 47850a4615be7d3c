"""Instructions as GR00T N1.7 reads them."""

from __future__ import annotations

import re

_OTHER = re.compile(r"[^\w\s]")


def formalised(text: str) -> str:
    """``text`` in lower case, without anything but word characters and white space (upstream's formalize_language)."""
    return _OTHER.sub("", text.lower())
