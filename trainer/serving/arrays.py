"""Arrays of a request, from bytes that anybody may have sent: numbers and texts alone, of the size they claim.

Nothing is unpickled, and dtype and shape are checked before anything is allocated.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_REQUEST = 64 * 1024**2
"""Bytes; eight cameras of 1080p have 50 MB."""
MAX_AXES = 8
LARGEST_HEADER = 500
"""Bytes of what says dtype and shape in ``np.save``'s format; numpy writes 118."""

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([!-&(-~]{1,20})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,12}, ?){0,40}(?:\d{1,12})?)\), \} *\n"
)
_PLAIN = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248]|U\d{1,5})")


class RequestError(Exception):
    """A request that is not served; the text is the answer to the client. ``status`` is HTTP's."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message[:1000])
        self.status = status


def from_npy(data: object) -> NDArray[Any]:
    """The array in the bytes of ``np.save``. Raises ``RequestError``."""
    if not isinstance(data, bytes):
        raise RequestError("An array's as_npy must be the bytes of np.save.")
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    # numpy would parse the header as Python, which takes a stranger's header a long time.
    found = _HEADER.fullmatch(data[start : min(end, start + LARGEST_HEADER)])
    if not data.startswith(_MAGIC) or found is None:
        raise RequestError("An array is not in np.save's format of numbers and texts; objects are not read.")
    descr, fortran, shape = (each.decode() for each in found.groups())
    return _array(
        data[end:], descr, [int(size) for size in shape.split(",") if size.strip()], "F" if fortran == "True" else "C"
    )


def from_parts(data: object, dtype: object, shape: object) -> NDArray[Any]:
    """The array of these bytes, as msgpack_numpy tells of it. Raises ``RequestError``."""
    if not isinstance(data, bytes):
        raise RequestError("An array's data must be bytes.")
    return _array(data, dtype, shape, "C")


def from_base64(data: object, dtype: object, shape: object) -> NDArray[Any]:
    """The array as json_numpy writes it. Raises ``RequestError``."""
    if not isinstance(data, str):
        raise RequestError("An array's __numpy__ must be a text in base64.")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("An array's __numpy__ is not base64.") from error
    return _array(content, dtype, shape, "C")


def to_npy(array: NDArray[Any]) -> bytes:
    """``array`` in ``np.save``'s format."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def to_base64(array: NDArray[Any]) -> dict[str, object]:
    """``array`` as json_numpy writes it."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"__numpy__": data, "dtype": array.dtype.str, "shape": list(array.shape)}


def _array(data: bytes, dtype: object, shape: object, order: Any) -> NDArray[Any]:
    if not isinstance(dtype, str) or not _PLAIN.fullmatch(dtype):
        raise RequestError(
            f"An array has the dtype {str(dtype)[:40]!r}. Arrays of numbers, truth values and texts are served; "
            "objects, which would have to be unpickled, are not."
        )
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) > MAX_AXES:
        raise RequestError(f"An array's shape must be a list of at most {MAX_AXES} numbers.")
    if not all(type(size) is int and 0 <= size <= LARGEST_REQUEST for size in shape):
        raise RequestError(
            f"An array's shape must be of whole numbers, none negative and none over {LARGEST_REQUEST:,}."
        )
    kind = np.dtype(dtype)
    if kind.itemsize == 0 or math.prod(shape) * kind.itemsize != len(data):
        raise RequestError(
            f"An array of {list(shape)} {dtype} has {math.prod(shape) * kind.itemsize} bytes; {len(data)} came."
        )
    if kind.kind == "U" and (np.frombuffer(data, kind.byteorder + "u4") > 0x10FFFF).any():
        raise RequestError("A text has a character that is not Unicode.")
    return np.frombuffer(data, kind).reshape(tuple(shape), order=order)
