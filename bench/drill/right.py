"""Whether the engine computes on the GPU what it should: the tests marked ``gpu``, and by how much each is off."""

from __future__ import annotations

import os
from typing import Any

from bench.drill.carried import REPOSITORY
from bench.drill.report import Report

TESTS = "tests/gpu"


class Tell:
    """A pytest plugin that makes a row of each test."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._table = report.table("The tests marked gpu", ["test", "outcome", "off by", "allowed"])

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called for each phase of each test."""
        if report.when != "call" and report.passed:
            return
        reported = dict(report.user_properties)
        name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        outcome = report.outcome if report.when == "call" else f"{report.outcome} in its {report.when}"
        if report.failed:
            self._report.wrong.append(f"{name}: {_last_line(report)}")
        self._table.row(name, outcome, reported.get("difference", ""), reported.get("allowed", ""))


def _last_line(report: Any) -> str:
    message = getattr(getattr(report.longrepr, "reprcrash", None), "message", str(report.longrepr))
    return " ".join(message.split())[:300]


def run(report: Report, _size: str, device: str, _generation: str) -> None:
    """Run them; what fails is wrong."""
    import pytest

    if device == "CPU":
        os.environ["PIPPA_GPU_TESTS"] = "cpu"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the kernels that add in one order
    arguments = ["-m", "gpu", "-p", "no:cacheprovider", "--rootdir", str(REPOSITORY), str(REPOSITORY / TESTS)]
    code = pytest.main(arguments, plugins=[Tell(report)])
    if code and not report.wrong:
        report.wrong.append(f"pytest ended with {code}")
