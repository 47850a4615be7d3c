"""The certificates that this machine trusts, read once. Each new HTTP client reads them, also for plain HTTP."""

from __future__ import annotations

import functools
import ssl


@functools.cache
def trusted() -> ssl.SSLContext:
    """For a client's ``verify``: a wait asks by a new client several times a second."""
    return ssl.create_default_context()
