"""States and actions of every data config: widths, rotations, and actions coming back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.configs import DATA_CONFIGS, DataConfig, Feature, Normalisation, get_data_config
from trainer.data.dataset_meta import RotationType
from trainer.data.metadata import DatasetMetadata, DatasetStatistics, Modalities, StateActionMetadata
from trainer.data.statistics import statistics_of
from trainer.data.transforms import rotations
from trainer.data.transforms.sample import SampleTransform
from trainer.data.transforms.state_action import StateActionTransform
from trainer.errors import DatasetError, UsageError


def raw_data(config: DataConfig, rows: int = 40) -> dict[str, np.ndarray]:
    """Random raw data: quaternions where a state is turned into another rotation, else three dimensions."""
    rng = np.random.default_rng(0)
    raw = {}
    for modality in ("state", "action"):
        for feature in getattr(config, modality):
            width = 4 if feature.rotation == "rotation_6d" else 3
            values = rng.normal(size=(rows, width))
            if width == 4:
                values /= np.linalg.norm(values, axis=1, keepdims=True)
            raw[f"{modality}.{feature.key}"] = (values > 0).astype(float) if feature.normalise == "binary" else values
    return raw


def config_of(state: Feature | None = None, action: Feature | None = None) -> DataConfig:
    """A data config with one state and one action; the one that is not given is called ``x``."""
    return DataConfig("r", ("front",), (state or Feature("x"),), (action or Feature("x"),), "annotation.t")


def metadata_of(config: DataConfig, raw: dict[str, np.ndarray], **changes: object) -> DatasetMetadata:
    described, statistics = {"state": {}, "action": {}}, {"state": {}, "action": {}}
    for modality in described:
        for feature in getattr(config, modality):
            values = raw.get(f"{modality}.{feature.key}", np.zeros((1, 3)))
            rotation = None
            if feature.rotation:
                rotation = "quaternion" if values.shape[1] == 4 else "axis_angle"
            fields = {"absolute": True, "rotation_type": rotation, "shape": (values.shape[1],), "continuous": True}
            described[modality][feature.key] = StateActionMetadata.model_validate({**fields, **changes})
            statistics[modality][feature.key] = statistics_of(values)
    return DatasetMetadata(
        statistics=DatasetStatistics(**statistics), modalities=Modalities(video={}, **described), embodiment_tag="gr1"
    )


@pytest.mark.parametrize("name", DATA_CONFIGS)
def test_every_config_transforms_and_brings_actions_back(name: str) -> None:
    config = get_data_config(name)
    raw = raw_data(config)
    transform = SampleTransform(config, metadata_of(config, raw), "gr1")
    state, action = transform.state.forward(raw), transform.action.forward(raw)
    assert state.shape == (40, transform.state.width) and np.isfinite(state).all()
    expected = sum(6 if f.sin_cos or f.rotation == "rotation_6d" else 3 for f in config.state)
    assert transform.state.width == expected
    back = transform.unapply(np.pad(action, ((0, 0), (0, config.max_action_dim - action.shape[1]))))
    assert list(back) == [f"action.{key}" for key in config.keys("action")]
    for key, values in back.items():
        np.testing.assert_allclose(values, raw[key], atol=1e-5, err_msg=key)


def test_a_converted_rotation_is_normalised_with_its_bounds_which_changes_nothing() -> None:
    config = config_of(state=Feature("pose", "min_max", rotation="rotation_6d"))
    raw = {"state.pose": np.array([[0.0, 0.0, 0.0, 1.0]]), "action.x": np.zeros((1, 3))}
    state = StateActionTransform("state", config.state, metadata_of(config, raw)).forward(raw)
    np.testing.assert_allclose(state, [[-1, 0, 0, 0, -1, 0]], atol=1e-12)


EULER_LIKE: list[RotationType] = [kind for kind in get_args(RotationType) if rotations.width(kind) == 3]


@given(
    angles=st.lists(st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3), min_size=2, max_size=8),
    source=st.sampled_from(EULER_LIKE),
    target=st.sampled_from(EULER_LIKE),
    normalise=st.sampled_from([None, "min_max"]),
)
def test_rotated_actions_come_back_as_the_same_rotation(
    angles: list[list[float]], source: RotationType, target: RotationType, normalise: Normalisation | None
) -> None:
    """Rotation, then fixed bounds, forward; bounds, then rotation, back."""
    config = config_of(action=Feature("pose", normalise, rotation=target))
    raw = {"action.pose": np.array(angles)}
    transform = StateActionTransform("action", config.action, metadata_of(config, raw, rotation_type=source))
    normalised = transform.forward(raw)
    if normalise and source != target:
        assert np.abs(normalised).max() <= 1 + 1e-9
    if normalise is None or source != target or np.ptp(raw["action.pose"], axis=0).min() > 1e-3:
        back = transform.inverse(normalised)["action.pose"]
        np.testing.assert_allclose(
            rotations.to_matrix(back, source), rotations.to_matrix(raw["action.pose"], source), atol=1e-6
        )


@given(angles=st.lists(st.lists(st.floats(-3.14, 3.14), min_size=2, max_size=2), min_size=1, max_size=8))
def test_sines_and_cosines_tell_the_angle(angles: list[list[float]]) -> None:
    config = config_of(state=Feature("joints", sin_cos=True))
    raw = {"state.joints": np.array(angles)}
    sines, cosines = np.split(StateActionTransform("state", config.state, metadata_of(config, raw)).forward(raw), 2, 1)
    np.testing.assert_allclose(np.arctan2(sines, cosines), raw["state.joints"], atol=1e-12)


@pytest.mark.parametrize(
    ("feature", "changes", "message"),
    [
        (Feature("pose", rotation="rotation_6d"), {"rotation_type": None}, "what rotation it is"),
        (Feature("pose", "min_max", rotation="rotation_6d"), {"absolute": False}, "only be normalised when"),
        (Feature("pose", "q99", rotation="rotation_6d"), {}, "only be normalised when"),
        (Feature("pose", "min_max"), {"continuous": False}, "holds integers"),
        (Feature("pose", rotation="rotation_6d"), {"rotation_type": "axis_angle"}, "of type axis_angle has 3"),
    ],
)
def test_what_can_not_be_processed_is_refused(feature: Feature, changes: dict, message: str) -> None:
    config = config_of(state=feature)
    raw = {"state.pose": np.tile([0.0, 0.0, 0.0, 1.0], (2, 1))}
    with pytest.raises(DatasetError, match=message):
        StateActionTransform("state", config.state, metadata_of(config, raw, **changes))


def test_actions_keep_their_width() -> None:
    config = config_of(action=Feature("joints", sin_cos=True))
    raw = {"action.joints": np.zeros((2, 3))}
    with pytest.raises(UsageError, match="from 3 to 6"):
        StateActionTransform("action", config.action, metadata_of(config, raw))


@pytest.mark.parametrize(("modality", "limit"), [("state", "max_state_dim"), ("action", "max_action_dim")])
def test_a_wider_vector_than_the_model_takes_is_refused(modality: str, limit: str) -> None:
    """Upstream cuts a state's last dimensions off."""
    narrow: dict[str, Any] = {limit: 5}
    config = replace(get_data_config("so100"), **narrow)
    with pytest.raises(UsageError, match=f"The {modality}s of so100 have 6 dimensions; the model takes 5"):
        SampleTransform(config, metadata_of(config, raw_data(config)), "new_embodiment")


def test_an_observation_that_does_not_fit_is_refused() -> None:
    config = get_data_config("so100")
    raw = raw_data(config)
    transform = SampleTransform(config, metadata_of(config, raw), "new_embodiment")
    state = {key: values[:1] for key, values in raw.items() if key.startswith("state")}
    frames = np.zeros((1, 48, 64, 3), np.uint8)
    assert transform.apply({**state, "video.webcam": frames})["text"] == "Perform the default behavior."
    with pytest.raises(UsageError, match=r"lacks video\.webcam"):
        transform.apply(state)
    with pytest.raises(UsageError, match="must be uint8"):
        transform.apply({**state, "video.webcam": frames.astype(float)})
    with pytest.raises(UsageError, match="has 2 dimensions, not 3"):
        transform.apply({**state, "video.webcam": frames, "state.gripper": np.zeros((1, 2))})
