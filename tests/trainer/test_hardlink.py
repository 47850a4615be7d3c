"""Files that several folders share, with file systems that have hard links and with such that have none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from trainer.hardlink import link_or_copy


@pytest.fixture(params=["links", "no links"])
def linked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this machine's file system has hard links; where it has none, ``os.link`` says what a kernel says."""
    if request.param == "no links":

        def refuse(source: object, target: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    return request.param == "links"


def test_the_target_is_the_source(tmp_path: Path, linked: bool) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    link_or_copy(source, target)
    assert target.read_text() == "new"
    assert target.samefile(source) == linked


def test_what_else_shares_the_old_target_stays(tmp_path: Path, linked: bool) -> None:
    source, target, kept = tmp_path / "source", tmp_path / "target", tmp_path / "kept"
    source.write_text("new")
    kept.write_text("old")
    target.hardlink_to(kept) if linked else target.write_text("old")
    link_or_copy(source, target)
    assert (target.read_text(), kept.read_text()) == ("new", "old")


def test_a_source_that_is_gone_costs_nothing(tmp_path: Path, linked: bool) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "gone", target)
    assert target.read_text() == "old"
