"""Receiving into memory that is there already. urllib3 only hands out new objects, a fifth of what receiving costs."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

CHUNK_BYTES = 1 << 20


def chunks_into(response: BaseHTTPResponse, room: memoryview) -> Iterator[memoryview]:
    """The body of ``response``, in pieces of ``room`` as they are filled; what doesn't fit is not read.

    Raises urllib3's ``HTTPError`` where the connection breaks, as its own reading does.
    """
    from urllib3.exceptions import ProtocolError

    source = getattr(response, "_fp", None)
    if not isinstance(source, http.client.HTTPResponse) or "content-encoding" in response.headers:
        for chunk in response.stream(CHUNK_BYTES):
            count = min(len(chunk), len(room))
            room[:count] = chunk[:count]
            yield room[:count]
            room = room[count:]
        return
    left = source.length
    while room:
        try:
            count = source.readinto(room[:CHUNK_BYTES])
        except (OSError, http.client.HTTPException) as error:
            raise ProtocolError(f"Connection broken: {error!r}", error) from error
        if not count:
            break
        yield room[:count]
        room = room[count:]
        left = None if left is None else left - count
    if left and room:
        raise ProtocolError(f"Connection broken: {left} bytes are missing")
    if source.isclosed():
        # All of it was read: urllib3, which did not see it, would close the connection and not use it again.
        response.release_conn()
