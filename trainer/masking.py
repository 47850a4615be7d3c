"""Secrets of the environment: which variables hold one, and how none reaches a child or a text.

A variable is a secret by its name: pippa's settings that are one, and anything called KEY, TOKEN, SECRET, PASSWORD
or the like. The password in the address of a proxy or a database is one too.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
SHORTEST = 6
"""Characters of a secret that is masked: a shorter one would be found in any text."""
LONGEST_FILE = 8192
"""Bytes of a file with a secret; a larger one is something else."""

_WORD = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?$")
_PATH = re.compile(r"_(FILE|PATH)$")
_RANDOM = re.compile(r"(?=.*\d)(?=.*[a-z]).{12,}")
"""A word of a path that is rather a key."""
_SUFFIX = re.compile(r"\.(txt|key|pem|token|secret|json|env)$")
_OURS = ("PIPPA_", "PREFECT_", "WANDB_", "HF_", "HUGGING_FACE_")


def is_secret(name: str) -> bool:
    """Whether the variable ``name`` holds a secret, or (``…_FILE``, ``…_PATH``) names a file that does."""
    name = _PATH.sub("", name.upper())
    return name.endswith("AUTH_STRING") or any(_WORD.search(word) for word in name.split("_"))


def without_secrets(environ: Mapping[str, str], keep: Collection[str] = ()) -> dict[str, str]:
    """``environ`` for a child that needs none of its secrets but those called ``keep``, each also as ``…_FILE``."""
    return {
        name: value for name, value in environ.items() if not is_secret(name) or {name, _PATH.sub("", name)} & {*keep}
    }


def without_our_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for a program of others, such as git: it may need its own secrets, and none of pippa's."""
    return {name: value for name, value in environ.items() if not (is_secret(name) and name.startswith(_OURS))}


def looks_like_path(text: str) -> bool:
    """Whether ``text`` may be shown as a path: it might also be a key that was put where the path of its file belongs.

    A path is there, or begins with a folder that is; else it is in lower case, begins with a slash or ends as files
    that hold a secret do, and has no long word of digits and letters. Keys are none of these.
    """
    first, *others = text.removeprefix("/").split("/")
    folder = Path("/" if text.startswith("/") else "", first)
    if os.path.lexists(text) or (others and first and (first == "~" or folder.is_dir())):
        return True
    written = text.startswith("/") or (not others and _SUFFIX.search(text))
    return bool(written) and text == text.lower() and not any(map(_RANDOM.fullmatch, re.split(r"[/._-]", text)))


class Masker:
    """Replaces secrets by ``***``, also in a text that comes in pieces."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}
        ordered = sorted(forms, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._beginnings = {form[:end] for form in forms for end in range(1, len(form))}
        self._longest = max(map(len, forms), default=0)
        self._held = ""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Masker:
        """One that knows every secret of ``environ``."""
        return cls(_secrets(environ))

    def __call__(self, text: str) -> str:
        """A whole ``text`` without the secrets."""
        return self._found.sub(MASK, text) if self._found else text

    def within(self, value: Any) -> Any:
        """``value`` with every text in its lists and dictionaries masked."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {self.within(key): self.within(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.within, value))
        return value

    def feed(self, piece: str) -> str:
        """What may be written after the next ``piece`` came: its end waits where it may be the start of a secret."""
        if self._found is None:
            return piece
        text, self._held = self._held + piece, ""
        cut = len(text)
        for length in range(min(len(text), self._longest - 1), 0, -1):
            if text[-length:] in self._beginnings:
                cut = len(text) - length
                break
        # A secret that is whole may end in what begins another one.
        for found in self._found.finditer(text):
            if found.start() < cut < found.end():
                cut = found.start()
        self._held = text[cut:]
        return self(text[:cut])

    def rest(self) -> str:
        """What still waits, at the end of the text."""
        text, self._held = self._held, ""
        return self(text)


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if not is_secret(name):
            if "://" in value and "@" in value:
                with suppress(ValueError):
                    yield unquote(urlsplit(value).password or "")
            continue
        if _PATH.search(name) and looks_like_path(value):
            path, value = value, ""
            with suppress(OSError, RuntimeError, UnicodeDecodeError):
                file = Path(path).expanduser()
                value = file.read_text() if file.stat().st_size <= LONGEST_FILE else ""
        yield from (value.strip(), *value.split("\n"))  # a private key is written in lines
        if _PATH.sub("", name).endswith("AUTH_STRING"):
            yield value.strip().partition(":")[2]


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is written in plain, in JSON, in an address, and as HTTP's password."""
    secret = secret.strip()
    yield from (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote(secret))
    yield base64.b64encode(secret.encode()).decode()
