"""``pippa report``: the page of a real run, from what its evaluation really left."""

from __future__ import annotations

import pytest

from flows import cli
from tests.support.registered import tiny_checkpoint
from trainer.errors import ExitCode
from trainer.evaluation.registered import RegisteredOptions, evaluate_registered
from trainer.events import Emitter
from trainer.store import registry, runs


@pytest.fixture
def entry(object_store, s3_settings, monkeypatch, tmp_path) -> registry.CheckpointEntry:
    for name, value in {**s3_settings.to_environ(), "PIPPA_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    return tiny_checkpoint(object_store, tmp_path)


def test_the_page_shows_joints_and_cameras_and_is_kept_in_the_store(entry, object_store, tmp_path, capsys):
    evaluate_registered(RegisteredOptions(checkpoint=(entry.name,), ablations=False), Emitter())
    assert cli.main(["report", entry.run_id]) == ExitCode.DONE
    file = tmp_path / "home/runs" / entry.run_id / "report/report.html"
    assert str(file) in capsys.readouterr().out
    page = file.read_text()
    assert runs.read_file(object_store, entry.run_id, "report/report.html") == page.encode()
    assert page.count("data:image/webp") == 2  # one camera, two episodes
    assert page.count("<svg") > 20 and "motor_0" in page and "http://" not in page
    # In the page a picture is what it was in the dataset: something of a scene, in WebP.
    strip = runs.read_file(object_store, entry.run_id, "report/checkpoint-30/open_loop_episode_0_camera_0.webp")
    assert strip is not None and strip[8:12] == b"WEBP" and len(strip) > 500


def test_it_is_written_where_it_is_asked_for(entry, tmp_path, capsys):
    target = tmp_path / "pages" / "mine.html"
    assert cli.main(["report", entry.run_id, "--output", str(target)]) == ExitCode.DONE
    assert "No checkpoint of this run was evaluated yet" in target.read_text()
    assert cli.main(["report", entry.run_id, "--output", str(tmp_path)]) == ExitCode.USAGE
    assert "is a folder" in capsys.readouterr().err
    assert cli.main(["report", "smoke-20260101-000000-ffff"]) == ExitCode.USAGE
