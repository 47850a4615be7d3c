"""One stack for all tests of this folder, and the table of what its stages took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.e2e.stack import Stack

if TYPE_CHECKING:
    import docker

TIMES: list[tuple[str, float]] = []


@pytest.fixture(scope="session")
def stack(docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A fresh clone whose stack has never run."""
    stack = Stack(tmp_path_factory.mktemp("clone"))
    yield stack
    TIMES.extend(stack.times)
    stack.remove()


@pytest.fixture(autouse=True)
def nothing_trains_on(stack: Stack) -> Iterator[None]:
    """What a test leaves when it fails would hold the processor that the next one waits for."""
    yield
    stack.end_trainings()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each stage took."""
    if TIMES:
        terminalreporter.section("stages of the compose stack")
        for stage, seconds in TIMES:
            terminalreporter.write_line(f"{seconds:7.0f} s  {stage}")
