"""What Prefect's client says when it is refused, on a real server."""

from __future__ import annotations

import pytest
from prefect.context import refresh_global_settings_context

from flows.api import prefect_client
from trainer.errors import PippaError


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PREFECT_API_AUTH_STRING", "me:guess", "refuses the password"),
        ("PREFECT_API_URL", "http://127.0.0.1:9/api", "http://127.0.0.1:9/api does not answer"),
    ],
)
def test_a_refusal_has_a_cure(stack, monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    refresh_global_settings_context()
    with pytest.raises(PippaError, match=said) as refused, prefect_client() as client:
        client.read_work_pools()
    assert refused.value.hint
