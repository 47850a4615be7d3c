"""The picture of the synthetic dataset: a counter, a plate, an object and the robot's right arm, drawn with numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

WIDTH = HEIGHT = 256
OBJECTS: dict[str, tuple[int, int, int]] = {
    "pear": (120, 190, 60),
    "sweet potato": (190, 90, 60),
    "meat": (170, 40, 50),
    "salt": (70, 110, 200),
    "cupcake": (230, 130, 190),
}
"""Objects and their colours, RGB."""

SHOULDER = np.array([190.0, 268.0])
"""Where the right arm comes into the picture, in pixels."""
UPPER_ARM, FOREARM = 125.0, 115.0
LIFTED = np.array([0.0, -22.0])
"""How far up a lifted gripper appears."""


@dataclass(frozen=True)
class Arm:
    """A two-link arm in the picture plane; angles in radians ``[T]``."""

    shoulder: np.ndarray
    elbow: np.ndarray

    @classmethod
    def reaching(cls, position: np.ndarray) -> Arm:
        """The pose that puts the gripper at ``position`` (pixels ``[..., 2]``), elbow outwards."""
        x, y = np.moveaxis(position - SHOULDER, -1, 0)
        cosine = (x**2 + y**2 - UPPER_ARM**2 - FOREARM**2) / (2 * UPPER_ARM * FOREARM)
        elbow = -np.arccos(np.clip(cosine, -1, 1))
        shoulder = np.arctan2(y, x) - np.arctan2(FOREARM * np.sin(elbow), UPPER_ARM + FOREARM * np.cos(elbow))
        return cls(np.mod(shoulder + np.pi / 2 + np.pi, 2 * np.pi) - np.pi - np.pi / 2, elbow)


@dataclass(frozen=True)
class Scene:
    """One episode's table: what lies where, in pixels."""

    colour: tuple[int, int, int]
    object: np.ndarray
    plate: np.ndarray
    _background: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_background", self._draw_background())

    @classmethod
    def random(cls, kind: str, rng: np.random.Generator) -> Scene:
        """An object of ``kind`` on the right of the counter, a plate on the left."""
        return cls(OBJECTS[kind], rng.uniform([120, 120], [222, 182]), rng.uniform([48, 128], [84, 186]))

    def _draw_background(self) -> np.ndarray:
        image = np.empty((HEIGHT, WIDTH, 3), dtype=np.float32)
        image[:80] = (205, 212, 218)
        image[76:84] = (120, 84, 56)
        grain = 6 * np.sin(np.arange(84, HEIGHT) / 3.1)[:, None, None]
        image[84:] = np.array((176, 132, 92)) + grain
        _disc(image, self.plate + np.array([2, 4]), 33, (120, 88, 60), squash=0.8)
        _disc(image, self.plate, 32, (248, 248, 250), squash=0.8)
        _disc(image, self.plate, 22, (214, 222, 236), squash=0.8)
        return image

    def draw(
        self, position: np.ndarray, lift: float, gripper: np.ndarray, gripper_lift: float, grip: float
    ) -> np.ndarray:
        """The picture, uint8 ``[256, 256, 3]``: the object at ``position``, the gripper closed by ``grip``."""
        image = self._background.copy()
        _disc(image, position + np.array([2, 5]), 13, (105, 76, 50), squash=0.6)
        shown = position + lift * LIFTED
        _disc(image, shown, 13, self.colour)
        _disc(image, shown - [4, 4], 3.5, tuple(0.5 * channel + 127 for channel in self.colour))
        arm = Arm.reaching(gripper)
        elbow = SHOULDER + UPPER_ARM * np.array([np.cos(arm.shoulder), np.sin(arm.shoulder)])
        hand = gripper + gripper_lift * LIFTED
        _bar(image, SHOULDER, elbow, 13, (92, 98, 110))
        _bar(image, elbow, hand - [0, 16], 10, (120, 128, 142))
        _disc(image, elbow, 11, (70, 76, 88))
        spread = 18 - 6 * grip
        _bar(image, hand - np.array([spread, 16]), hand + np.array([spread, -16]), 5, (50, 54, 62))
        for side in (-1, 1):
            finger = hand + np.array([side * spread, 0])
            _bar(image, finger - np.array([0, 16]), finger + np.array([0, 6]), 4, (50, 54, 62))
        return np.clip(image, 0, 255).astype(np.uint8)


def _disc(image: np.ndarray, centre: np.ndarray, radius: float, colour: tuple[float, ...], squash: float = 1.0) -> None:
    """A filled circle, or with ``squash`` an ellipse as seen at a slant, with smooth edges."""
    x, y, region = _region(image, centre - radius, centre + radius)
    distance = np.hypot(x - centre[0], (y - centre[1]) / squash) - radius
    _blend(region, distance, colour)


def _bar(image: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, colour: tuple[float, ...]) -> None:
    """A thick line with round ends."""
    x, y, region = _region(image, np.minimum(start, end) - radius, np.maximum(start, end) + radius)
    along = end - start
    share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / max(along @ along, 1e-6)
    share = np.clip(share, 0, 1)
    distance = np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1]) - radius
    _blend(region, distance, colour)


def _region(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates and a view of the part of the image between two corners."""
    left, top = np.clip(np.floor(low).astype(int) - 1, 0, WIDTH)
    right, bottom = np.clip(np.ceil(high).astype(int) + 2, 0, WIDTH)
    return np.arange(left, right)[None, :], np.arange(top, bottom)[:, None], image[top:bottom, left:right]


def _blend(region: np.ndarray, distance: np.ndarray, colour: tuple[float, ...]) -> None:
    cover = np.clip(0.5 - distance, 0, 1)[..., None].astype(np.float32)
    region[:] = region * (1 - cover) + np.asarray(colour, dtype=np.float32) * cover
