"""Fixtures for what needs Prefect: one real server per test process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest

from flows.embedded.prefect import prefect_api, prefect_service
from flows.settings import prefect_environment
from trainer.config.settings import S3Settings


@pytest.fixture(scope="session")
def prefect_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The variables that lead to a real, embedded Prefect server."""
    home = tmp_path_factory.mktemp("prefect-home")
    with prefect_service(home, {"PATH": os.environ["PATH"]}) as connection:
        yield {**prefect_environment(home, {}), **prefect_api(connection).to_environ()}


@pytest.fixture
def stack(prefect_environ, s3_settings: S3Settings, tmp_path, monkeypatch) -> Mapping[str, str]:
    """This process works with a real Prefect server and a bucket of this test's own; ``PIPPA_HOME`` is in tmp_path."""
    environ = {
        **prefect_environ,
        **s3_settings.to_environ(),
        "PIPPA_HOME": str(tmp_path / "home"),
        # A training that a test killed holds its place for another minute.
        "PIPPA_TRAININGS_PER_GPU": "99",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    return environ
