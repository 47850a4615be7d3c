"""The latency of a chunk is that of what is served, part by part, in both generations."""

from __future__ import annotations

import json
import time

import pytest

from bench.serve import full_size, parts_table, policy_of_n15, policy_of_n17
from trainer import serve
from trainer.gr00t.policy import Policy
from trainer.serving.latency import CHUNK, OURS, measure, quantiles, share_of_ours
from trainer.serving.service import Service

PARTS = ["decode", "preprocess", "backbone", "step 1", "step 2", "step 3", "step 4", "postprocess", CHUNK]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    folder = tmp_path_factory.mktemp("policies")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PIPPA_HOME", str(folder / "home"))
        return {"N1.5": policy_of_n15(folder), "N1.7": policy_of_n17(folder)}


def test_the_parts_of_a_chunk_are_the_chunk(policies: dict[str, Policy]) -> None:
    found = {name: measure(policy, 3) for name, policy in policies.items()}
    for parts in found.values():
        assert list(parts) == PARTS
        assert {len(taken) for taken in parts.values()} == {3}
        for number, whole in enumerate(parts[CHUNK]):
            assert sum(parts[name][number] for name in PARTS[:-1]) == pytest.approx(whole, rel=1e-6)
        assert all(0 < p50 <= p99 for p50, p99 in quantiles(parts).values())
        assert 0 < share_of_ours(parts) < 1
    lines = parts_table(found).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == PARTS
    ours = sum(quantiles(found["N1.7"])[name][0] for name in OURS)
    assert f"{ours:.2f} ms beside 100 ms of the model, {ours / (ours + 100):.1%}" in full_size(found, 100)
    # Nothing of the measurement stays in what is served.
    for policy in policies.values():
        assert not policy.model.backbone._forward_pre_hooks
        Service(policy)


@pytest.mark.parametrize("generation", ["N1.5", "N1.7"])
def test_serve_measures_and_ends(
    policies: dict[str, Policy], generation: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.serving.latency.measure.__defaults__", (2, time.perf_counter))
    folder = str(policies[generation].checkpoint.folder)
    summary = [] if generation == "N1.7" else ["--data-config=fourier_gr1_arms_only"]
    assert serve.main([folder, "--measure", "--denoising-steps=2", *summary]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["p50", "ms", "p99", "ms"]
    assert [line.split("  ")[0].strip() for line in lines if line.startswith("step")] == ["step 1", "step 2"]
    assert lines[-1].startswith("2 chunks; ") and lines[-1].endswith("% of a chunk is not the model.")
    assert serve.main([folder, "--measure", "--json", "--denoising-steps=2", *summary]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["chunks"] == document["denoising_steps"] == 2 and 0 < document["share_not_model"] < 1
    assert set(document["parts"]) >= {"decode", "step 2", CHUNK} and document["parts"][CHUNK]["p50_ms"] > 0
