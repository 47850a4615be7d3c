from __future__ import annotations

from typing import Any

import pytest

from flows.launch.docker import gpus
from flows.launch.docker.container_configuration import ContainerConfiguration
from flows.launch.docker.images import ensure_image
from flows.launch.docker.placement import find_placement
from tests.flows.launch.conftest import Bench
from trainer.config.finetune_config import FinetuneConfig
from trainer.errors import PippaError, UsageError

NVIDIA = {"Runtimes": {"runc": {}, "nvidia": {}}}
CDI = {"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}
NONE = {"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.com/nic=0"}]}


def asked(info: dict[str, Any], text: str | None) -> list[dict[str, Any]]:
    return [dict(each) for each in gpus.requests(info, {} if text is None else {"PIPPA_GPUS": text})]


def test_what_the_engine_offers_is_asked_for_by_default():
    assert asked(NVIDIA, None) == asked(NVIDIA, "all")
    assert (asked(NVIDIA, None)[0]["Count"], asked(NVIDIA, None)[0]["Capabilities"]) == (-1, [["gpu"]])
    assert (asked(CDI, None)[0]["Driver"], asked(CDI, None)[0]["DeviceIDs"]) == ("cdi", ["nvidia.com/gpu=all"])
    assert asked(NONE, None) == []


def test_some_or_none_are_asked_for_by_setting():
    assert asked(NVIDIA, "0, GPU-3f2a")[0]["DeviceIDs"] == ["0", "GPU-3f2a"] and asked(NVIDIA, "0")[0]["Count"] == 0
    assert asked(CDI, "1,2")[0]["DeviceIDs"] == ["nvidia.com/gpu=1", "nvidia.com/gpu=2"]
    assert asked(NVIDIA, "none") == asked(CDI, "none") == []
    assert asked(NONE, "0")[0]["DeviceIDs"] == ["0"]  # the daemon says itself why not


@pytest.mark.parametrize("text", [",", "0,,x y", "0,all", "1,1", "none,0", "$(id)"])
def test_other_settings_are_refused(text):
    with pytest.raises(UsageError, match="PIPPA_GPUS"):
        gpus.wanted({"PIPPA_GPUS": text})


def config(base_model: str = "nvidia/GR00T-N1.5-3B", num_gpus: int = 1) -> FinetuneConfig:
    return FinetuneConfig(dataset_path=["d"], base_model_path=base_model, num_gpus=num_gpus)


def test_a_real_model_without_a_gpu_is_refused_with_the_rehearsal():
    with pytest.raises(UsageError) as error:
        gpus.require(NONE, {}, config())
    for cure in ("PIPPA_BASE_MODEL=tiny", "--base-model-path tiny", "PIPPA_GPUS=none", "Container Toolkit"):
        assert cure in error.value.hint
    gpus.require(NONE, {"PIPPA_GPUS": "none"}, config())
    gpus.require(NONE, {}, config("tiny"))
    gpus.require(NVIDIA, {}, config())
    with pytest.raises(UsageError, match="--num-gpus 2"):
        gpus.require(NVIDIA, {"PIPPA_GPUS": "0"}, config(num_gpus=2))


def test_a_driver_that_is_too_old_for_the_image_is_to_be_updated():
    said = (
        "… nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, "
        "please update your driver to a newer version, or use an earlier cuda container: unknown"
    )
    refused = gpus.refusal(said)
    assert refused is not None and refused.hint.startswith("Update NVIDIA's driver.")
    missing = gpus.refusal('could not select device driver "" with capabilities: [[gpu]]')
    assert missing is not None and missing.hint.startswith(gpus.TOOLKIT)


@pytest.mark.docker
@pytest.mark.parametrize(("text", "count", "devices"), [("all", -1, []), ("0,1", 0, ["0", "1"])])
def test_a_container_for_gpus_is_created_as_pytorch_needs_it(bench: Bench, text, count, devices):
    """Created and never started: this says what is asked for, not that a GPU was used."""
    bench.environ["PIPPA_GPUS"] = text
    client, environ = bench.launcher.client, bench.environ
    image, place = ensure_image(client, "native", environ), find_placement(client, environ)
    asked = ContainerConfiguration(client, environ, bench.job(), environ, image, place)
    client.api.create_container(**asked.arguments({}))
    host = bench.container().attrs["HostConfig"]
    [request] = host["DeviceRequests"]
    assert (request["Count"], request["DeviceIDs"] or [], request["Capabilities"]) == (count, devices, [["gpu"]])
    assert host["ShmSize"] == 8 << 30 and host["Memory"] == 0
    assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {"memlock": -1, "stack": 67_108_864}


@pytest.mark.docker
def test_an_engine_without_gpus_refuses_with_the_cure(bench: Bench):
    if gpus.offered(bench.client.info()):
        pytest.skip("this daemon has GPUs")
    bench.environ["PIPPA_GPUS"] = "all"
    with pytest.raises(PippaError, match="can't give a container the GPUs") as error:
        bench.start()
    assert "nvidia-ctk runtime configure" in error.value.hint and bench.left() == []
    # What only brings sources computes nothing, and asks for none.
    job = bench.job().model_copy(update={"gpus": False})
    bench.launcher.start(job, bench.environ).kill()
