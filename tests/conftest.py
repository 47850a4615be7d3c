"""Fixtures every test may use."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.drill.carried import GOLDEN, GOLDEN_N17
from tests.support.buckets import Buckets
from tests.support.memory import in_memory
from tests.support.s3_server import S3Server
from trainer.config.settings import S3Settings
from trainer.heavy_imports import heavy_imports
from trainer.store.object_store import ObjectStore
from trainer.store.s3 import S3Store

if TYPE_CHECKING:
    import docker
    import docker.errors
    import torch

# One thread for torch, here and in child processes: sums of several threads differ in their last bit, and the machines
# that run tests have few cores. It is read when torch is imported, which is later.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Container images often tell Python to write no bytecode. Each of hundreds of processes would compile torch,
# transformers and Prefect again, which takes longer than to import them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts what it puts in the background with Ctrl-C ignored, and every child process inherits that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So does nohup with a closed terminal. A handler, also one that does nothing, is not inherited.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

REPOSITORY = Path(__file__).resolve().parents[1]
# Trainings with a home of their test's would compile the image kernels each.
os.environ.setdefault("NUMBA_CACHE_DIR", str(REPOSITORY / ".pippa" / "cache" / "numba"))
SHARED = REPOSITORY.parent / "shared"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The test files import whatever there is, and each search for garbage would walk all of it."""
    with heavy_imports():
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first: with ``--no-loadscope-reorder`` no worker begins one when the others end."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Tensors produced by upstream's own code; its README says how. A machine that is lent is brought some of them."""
    for folder in (SHARED / "golden", GOLDEN):
        if folder.is_dir():
            return folder
    pytest.skip("upstream's golden tensors are not beside this checkout (../shared/golden)")


@pytest.fixture(scope="session")
def golden_n17() -> Path:
    """The same of N1.7."""
    for folder in (SHARED / "golden-n17", GOLDEN_N17):
        if folder.is_dir():
            return folder
    pytest.skip("upstream's golden tensors of N1.7 are not beside this checkout (../shared/golden-n17)")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU of a test marked ``gpu``; with PIPPA_GPU_TESTS=cpu the CPU, so that these tests are run where none is."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("PIPPA_GPU_TESTS") != "cpu":
        pytest.skip("there is no GPU here")
    return torch.device("cpu")


@pytest.fixture(scope="session")
def demo_dataset() -> Path:
    """The real demo dataset ``robot_sim.PickNPlace``."""
    path = SHARED / "demo_data" / "robot_sim.PickNPlace"
    if not path.is_dir():
        pytest.skip("the demo dataset is not beside this checkout (../shared/demo_data)")
    return path


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    """A real S3 server, one for all tests of a process."""
    with in_memory(tmp_path_factory.mktemp("s3")) as folder, S3Server(folder) as server:
        yield server.settings


@pytest.fixture(scope="session")
def buckets(s3_server: S3Settings) -> Iterator[Buckets]:
    """Where tests get buckets of that server."""
    with contextlib.closing(Buckets(s3_server)) as buckets:
        yield buckets


@pytest.fixture
def s3_settings(buckets: Buckets) -> Iterator[S3Settings]:
    """A bucket of this test's own."""
    with buckets.one() as settings:
        yield settings


@pytest.fixture
def object_store(s3_settings: S3Settings) -> ObjectStore:
    """The store in this test's own bucket."""
    return S3Store(s3_settings)


@pytest.fixture
def point_at_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Lets the real client ask the server at an address."""
    from huggingface_hub import constants

    def point(address: str) -> None:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants._HF_DEFAULT_ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)

    return point


@pytest.fixture
def pippa_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``pippa …`` in this process; returns the exit code and what it wrote."""
    from flows.cli import main

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(autouse=True)
def no_docker_daemon(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not marked ``docker`` reaches none: another's containers would hold the GPUs it asks for."""
    if not request.node.get_closest_marker("docker"):
        monkeypatch.setenv("DOCKER_HOST", "unix:///no-docker-daemon")


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """A client of the Docker daemon of this machine; a test with it is also marked ``docker``.

    Where no engine answers it skips, unless PIPPA_REQUIRE_DOCKER=1 says that one must.
    """
    import docker
    import docker.errors

    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        if os.environ.get("PIPPA_REQUIRE_DOCKER") == "1":
            pytest.fail(f"PIPPA_REQUIRE_DOCKER=1, and no Docker daemon answers: {error}")
        pytest.skip(f"no Docker daemon answers: {error}")
    yield client
    client.close()
