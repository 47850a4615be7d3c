"""Instructions as GR00T N1.7 reads them."""

from __future__ import annotations

import re
from functools import lru_cache

_OTHER = re.compile(r"[^\w\s]")


@lru_cache(maxsize=4096)  # a dataset has few instructions, each in many steps
def formalised(text: str) -> str:
    """``text`` in lower case, without anything but word characters and white space (upstream's formalize_language)."""
    return _OTHER.sub("", text.lower())
