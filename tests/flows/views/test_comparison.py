"""Runs beside each other, from real records in a real store."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from flows import cli
from flows.views.comparison import as_document, compare, print_comparison
from tests.support.evaluations import evaluation
from trainer.config.argv import resolve
from trainer.config.run_spec import SnapshotRef, new_run_id
from trainer.events import ProgressEvent
from trainer.runner.run_spec_builder import new_spec
from trainer.store import registry, runs
from trainer.store.evaluation import Evaluation
from trainer.store.folder import FolderStore
from trainer.store.object_store import ObjectStore
from trainer.store.stores import store_folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setenv("PIPPA_HOME", str(tmp_path))
    monkeypatch.delenv("PIPPA_S3_ENDPOINT", raising=False)
    found = FolderStore(store_folder(tmp_path))
    found.create()
    return found


def a_run(
    store: ObjectStore, *flags: str, found: Evaluation | None = None, digest: str = "d", memory: int | None = None
) -> str:
    """A run of three logged steps whose checkpoint 20 was evaluated as ``found``."""
    dataset = SnapshotRef(kind="dataset", name="own", digest=digest * 64)
    model = SnapshotRef(kind="model", name="tiny", digest="b" * 64)
    spec = new_spec(*resolve("smoke", flags), [dataset], model, run_id=new_run_id("smoke"))
    runs.write_spec(store, spec)
    runs.write_state(store, spec.run_id, runs.RunState(status="done", step=20, of=20))
    lines = [
        ProgressEvent(step=step, of=20, loss=1 / step, samples_per_second=speed, gpu_memory_bytes=memory)
        for step, speed in ((1, 1.0), (10, 4.0), (20, 5.0))
    ]
    runs.write_file(
        store,
        spec.run_id,
        "events.jsonl",
        "\n".join(each.model_dump_json(exclude_none=True) for each in lines).encode(),
    )
    if found is not None:
        ref = SnapshotRef(kind="checkpoint", name=spec.run_id, digest="c" * 64)
        entry = registry.CheckpointEntry(run_id=spec.run_id, step=20, snapshot=ref, spec=spec, evaluation=found)
        store.write_json(entry.key, entry.model_dump(mode="json"))
    return spec.run_id


def test_three_runs_are_compared_in_eighty_columns(store: ObjectStore) -> None:
    first = a_run(store, found=evaluation({"a": 0.4, "b": 0.2}), memory=3_000_000_000)
    second = a_run(store, "--learning-rate", "3e-3", found=evaluation({"a": 0.1, "b": 0.3}), digest="e")
    third = a_run(store, "--learning-rate", "3e-3", "--tune-llm")
    found = compare(store, [first, second, third])
    assert found.differences["configuration"] == {
        "--tune-llm": ["no", "no", "yes"],
        "--learning-rate": ["0.001", "0.003", "0.003"],
    }
    assert list(found.differences["data"]) == ["dataset"] and found.differences["code"] == {}
    assert found.errors == [pytest.approx(0.3), pytest.approx(0.2), None] and found.lowest == 1
    assert [each.samples_per_second for each in found.compared] == [4.0, 4.0, 4.0]
    screen = io.StringIO()
    print_comparison(Console(file=screen, width=80), found)
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 or all(second in line for line in lines if len(line) > 80)
    assert any(line.split() == ["0.003", "B,", "C"] for line in lines)
    assert "3.0 GB" in screen.getvalue() and f"{second}/20" in screen.getvalue()


def test_errors_count_on_the_episodes_that_all_have_seen_alike(store: ObjectStore) -> None:
    first = a_run(store, found=evaluation({"a": 0.4, "b": 0.2}))
    second = a_run(store, "--batch-size", "4", found=evaluation({"a": 0.5, "c": 0.0}))
    found = compare(store, [first, second])
    assert found.errors == [0.4, 0.5] and found.lowest == 0 and "1 training episode " in found.errors_on
    # Held out by one, trained on by the other.
    third = a_run(store, "--holdout", "1", found=evaluation({"a": 0.1, "b": 0.2}, {"b"}))
    found = compare(store, [first, third])
    assert found.lowest is None and "can't be compared" in found.errors_on
    fourth = a_run(store, found=evaluation({"a": 0.1}, data_config="another"))
    assert "data configs" in compare(store, [first, fourth]).errors_on


def test_excluded_episodes_are_a_difference_of_the_data(store: ObjectStore) -> None:
    both = [a_run(store), a_run(store, "--exclude-episodes", "3", "40-44")]
    found = compare(store, both).differences
    assert found == {"configuration": {}, "data": {"left out": ["no episode", "3, 40-44"]}, "code": {}}


def test_the_same_training_twice_differs_in_nothing(store: ObjectStore) -> None:
    found = compare(store, [a_run(store), a_run(store)])
    screen = io.StringIO()
    print_comparison(Console(file=screen, width=80), found)
    assert "Nothing differs" in screen.getvalue()


def test_json_has_the_curves(store: ObjectStore, capsys) -> None:
    both = [a_run(store, found=evaluation({"a": 0.4})), a_run(store, "--batch-size", "4", found=evaluation({"a": 0.2}))]
    assert cli.main(["runs", "compare", *both, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(json.dumps(as_document(compare(store, both))))
    assert document["lowest_error"] == both[1]
    assert document["runs"][0]["loss_curve"][-1] == [20, 0.05]
    assert document["runs"][0]["evaluations"]["20"]["open_loop_mse"] == 0.4


def test_one_run_alone_and_unknown_ones_are_refused(store: ObjectStore, capsys) -> None:
    run = a_run(store)
    assert cli.main(["runs", "compare", run, run]) == 2
    assert "alone" in capsys.readouterr().err
    assert cli.main(["runs", "compare", run, "smoke-20260101-000000-aaaa"]) == 2
    assert "no run smoke-20260101-000000-aaaa" in capsys.readouterr().err


def test_the_page_has_every_run_and_escapes_what_it_shows(store: ObjectStore, tmp_path: Path, capsys) -> None:
    both = [a_run(store, found=evaluation({"a": 0.4})), a_run(store, "--batch-size", "4", found=evaluation({"a": 0.2}))]
    odd = a_run(store, "--output-dir", "<script>")
    page = tmp_path / "page.html"
    assert cli.main(["runs", "compare", *both, odd, "--output", str(page)]) == 0
    text = page.read_text()
    assert all(run in text for run in (*both, odd)) and text.count("<svg") == 2
    assert "&lt;script&gt;" in text and "<script" not in text and f"checkpoint {both[1]}/20" in text
    assert cli.main(["runs", "compare", *both, "--output", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
