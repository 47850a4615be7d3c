"""Requests and replies as GR00T's clients write them: msgpack over ZMQ, JSON over HTTP.

=================  =========================================  =======================================  ==============
``Form``           arrays                                     a modality config                        written by
=================  =========================================  =======================================  ==============
``FLAT``           ``{"__ndarray_class__", "as_npy"}``        ``__ModalityConfig_class__``, JSON text  N1.5
``NESTED``         the same                                   the same, as a map                       N1.6, N1.7
``MSGPACK_NUMPY``  msgpack_numpy's ``{nd, type, …, data}``    ``__ModalityConfig__``, as a map         since 3df8b38
``JSON``           json_numpy's ``{"__numpy__", …}``          a map                                    over HTTP
=================  =========================================  =======================================  ==============

Follows upstream's ``gr00t/eval/service.py`` (N1.5) and ``gr00t/policy/server_client.py`` (N1.6, N1.7). A client's form
says nothing of the model that answers it. Observations are flat in ``FLAT``, nested in ``NESTED`` and
``MSGPACK_NUMPY``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgpack
import numpy as np

from trainer.serving.arrays import (
    LARGEST_REQUEST,
    RequestError,
    from_base64,
    from_npy,
    from_parts,
    to_base64,
    to_npy,
)

DEEPEST = 16
MAX_ITEMS = 20_000
"""Entries of lists and maps in a request. Arrays count as one: each separate entry takes memory."""
LONGEST_LIST = 1024


class Form(Enum):
    """How a client writes; it is answered in the same form."""

    FLAT = "flat npy"
    NESTED = "nested npy"
    MSGPACK_NUMPY = "msgpack_numpy"
    JSON = "JSON"


class ModalityConfig(dict[str, Any]):
    """The steps and keys of one modality, in upstream's fields of N1.7; its clients read it into a class of theirs."""


def unpack(message: bytes) -> tuple[dict[str, Any], Form | None]:
    """The request in a ZMQ message, and what its arrays say of its form; None where it has none.

    Raises ``RequestError`` for anything else. Nothing that would be unpickled is looked at.
    """
    if message.startswith(b"PK") or (message[:1] == b"\x80" and len(message) > 1):
        raise RequestError(
            "This is torch.save's or pickle's format, in which a message can run code; it is not read. "
            "Use a client of GR00T N1.5 or later, which writes msgpack."
        )
    if len(message) > LARGEST_REQUEST:
        raise RequestError(f"A request has at most {LARGEST_REQUEST // 1024**2} MiB.")
    counted = 0

    def count(found: Any) -> Any:
        nonlocal counted
        counted += len(found) + 1
        if counted > MAX_ITEMS:
            raise RequestError("The request has too many entries: send images and states as arrays.")
        return found

    try:
        document = msgpack.unpackb(
            message,
            raw=False,
            strict_map_key=False,
            object_hook=count,
            list_hook=count,
            max_array_len=LONGEST_LIST,
            max_map_len=LONGEST_LIST,
            max_ext_len=0,
        )
    except RequestError:
        raise
    except Exception as error:  # msgpack raises whatever a key's hash, a text's bytes or the depth run into
        raise RequestError("The message is not readable as msgpack.") from error
    reader = _Reader()
    found = reader.read(document)
    return _request(found), reader.form


def parse(body: bytes) -> dict[str, Any]:
    """The request in the body of a POST. Raises ``RequestError``."""
    if body.startswith(b"PK") or body[:1] == b"\x80":
        raise RequestError("This is torch.save's or pickle's format, which is not read. Send JSON with json_numpy.")
    if sum(body.count(each) for each in (b",", b"[", b"{")) > MAX_ITEMS:
        raise RequestError("The request has too many entries: send images and states as arrays of json_numpy.")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("The body is not JSON.") from error
    return _request(_Reader().read(document))


def pack(reply: object, form: Form) -> bytes:
    """A reply of ZMQ."""
    return msgpack.packb(_written(reply, form), use_bin_type=True, unicode_errors="replace")  # pyrefly: ignore[bad-return]


def dump(reply: object) -> bytes:
    """A reply of HTTP."""
    return json.dumps(_written(reply, Form.JSON)).encode()


def _request(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise RequestError("A request is a map.")
    return document


class _Reader:
    """Turns what stands for an array into one."""

    def __init__(self) -> None:
        self.form: Form | None = None

    def read(self, value: Any, depth: int = 0) -> Any:
        if depth > DEEPEST:
            raise RequestError("The request is nested too deep.")
        if isinstance(value, list):
            return [self.read(each, depth + 1) for each in value]
        if not isinstance(value, dict):
            return value
        if "__ndarray_class__" in value:
            self.form = Form.NESTED
            return from_npy(value.get("as_npy"))
        if "__numpy__" in value:
            return from_base64(value["__numpy__"], value.get("dtype"), value.get("shape"))
        if b"nd" in value or "nd" in value:
            self.form = Form.MSGPACK_NUMPY
            return self._msgpack_numpy({_text(key): each for key, each in value.items()})
        return {_text(key): self.read(each, depth + 1) for key, each in value.items()}

    def _msgpack_numpy(self, value: Mapping[str, Any]) -> Any:
        if value.get("kind", b"") not in (b"", ""):
            raise RequestError("An array of objects or structures would have to be unpickled; it is not read.")
        kind = value.get("type")
        kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else kind
        if value["nd"] is False:  # one number
            return from_parts(value.get("data"), kind, [])
        return from_parts(value.get("data"), kind, value.get("shape"))


def _text(key: object) -> str:
    if isinstance(key, bytes):
        key = key.decode("utf-8", "replace")
    if not isinstance(key, str):
        raise RequestError("The keys of a request are texts.")
    return key


def _written(value: Any, form: Form) -> Any:
    if isinstance(value, ModalityConfig):
        return _modality(value, form)
    if isinstance(value, dict):
        return {name: _written(each, form) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_written(each, form) for each in value]
    if not isinstance(value, np.ndarray):
        return value
    if form is Form.JSON:
        return to_base64(value)
    if form is Form.MSGPACK_NUMPY:
        return {
            b"nd": True,
            b"type": value.dtype.str,
            b"kind": b"",
            b"shape": list(value.shape),
            b"data": np.ascontiguousarray(value).tobytes(),
        }
    return {"__ndarray_class__": True, "as_npy": to_npy(value)}


def _modality(config: ModalityConfig, form: Form) -> dict[str, Any]:
    if form is Form.JSON:
        return dict(config)
    if form is Form.FLAT:
        known = {name: config[name] for name in ("delta_indices", "modality_keys")}
        return {"__ModalityConfig_class__": True, "as_json": json.dumps(known)}
    return {
        "__ModalityConfig__" if form is Form.MSGPACK_NUMPY else "__ModalityConfig_class__": True,
        "as_json": dict(config),
    }
