"""What deserves a look in a dataset: each rule once, with its thresholds and why. Pages and docs show these texts."""

from __future__ import annotations

from dataclasses import dataclass

BLACK = 10.0
"""Mean brightness of a picture, of 255."""
FLAT = 3.0
"""Brightest less darkest part of a picture, of 255."""
SAME_PICTURE = 0.5
"""Change of the part of a picture that changes most, of 255: less than an encoder's noise around a real movement."""
FROZEN_SECONDS = 1.0
FROZEN_MOVE = 0.1
JUMP = 0.2
JUMP_TIMES = 5.0
JUMP_QUANTILE = 0.99
SWITCH_LEVELS = 8
"""A column of at most this many values is a switch: its steps are no jumps."""
STILL = 1e-3
STILL_ELSEWHERE = 0.9
BLOCKED_SECONDS = 1.0
BLOCKED_MOVE = 0.002
BLOCKED_ASKED = 0.1
LATE_SECONDS = 0.3
LATE_CORRELATION = 0.6
LATE_SEARCH = 0.6
"""Seconds that action and state are shifted against each other, at most, in either direction."""
LATE_APART = 0.1
IDLE_SECONDS = 2.0
IDLE_MOVE = 0.02
LENGTH_TIMES = 2.0
FAR = 3.5
FAR_MEAN = 0.25
MIN_EPISODES = 5
"""To say what is usual."""
MOST_OF_THEM = 0.5
"""Beyond this share of the episodes something is no exception but how the dataset is."""


@dataclass(frozen=True)
class Rule:
    """One kind of finding that deserves a look."""

    name: str
    title: str
    fires: str
    """When it says something."""
    why: str
    excludes: bool = True
    """Whether the episodes it finds are worth leaving out of a training; else they are worth knowing."""


UNREADABLE = Rule(
    "unreadable",
    "Can't be read",
    "a table or video is missing or damaged, or they contradict each other",
    "A training that uses it is refused until the episode is repaired or left out: `pippa data check` says how.",
)
BLANK = Rule(
    "blank",
    "Black or empty pictures",
    f"a frame's mean brightness is below {BLACK:g} of 255, or its brightest and darkest parts differ by less than "
    f"{FLAT:g}",
    "A camera that was not ready, covered or unplugged: the policy is taught to act without seeing.",
)
FROZEN = Rule(
    "frozen",
    "Frozen pictures",
    f"for {FROZEN_SECONDS:g} s no part of the picture changes by more than {SAME_PICTURE:g} of 255, while a joint "
    f"moves by {FROZEN_MOVE:.0%} of its range",
    "The camera stopped delivering: states and pictures no longer belong together.",
)
JUMP_RULE = Rule(
    "jump",
    "Jumps",
    f"from one row to the next a joint moves by {JUMP:.0%} of its range and {JUMP_TIMES:g} times as much as in "
    f"{JUMP_QUANTILE:.0%} of its steps; columns with at most {SWITCH_LEVELS} values are switches and never jump",
    "A sensor's glitch, lost rows, or an angle that wraps around: as an action it is a jerk of the robot.",
)
STILL_RULE = Rule(
    "still",
    "Joints that never move",
    f"a joint stays within {STILL:.1%} of its range for a whole episode and moves in {STILL_ELSEWHERE:.0%} of the "
    f"others (from {MIN_EPISODES} episodes on); or it never moves at all",
    "A sensor or motor that was off. One that never moves in the whole dataset is harmless: it is learned as constant.",
)
BLOCKED = Rule(
    "limit",
    "Joints at a limit",
    f"for {BLOCKED_SECONDS:g} s a joint's state stays within {BLOCKED_MOVE:.1%} of its range, while the action asks "
    f"for {BLOCKED_ASKED:.0%} of the range more; grippers and hands are left out, since they hold objects that way",
    "The joint is at its limit or against something: the policy learns to push.",
    excludes=False,
)
LAG = Rule(
    "lag",
    "Action and state out of step",
    f"the movement of the action fits that of the state best when the state is shifted: before the action, or more "
    f"than {LATE_SECONDS:g} s after it, or {LATE_APART:g} s other than in most episodes (correlation at least "
    f"{LATE_CORRELATION:g})",
    "State and action were stamped by clocks that differ, or rows of one are late: the policy learns a delay.",
)
COPY = Rule(
    "copy",
    "Action equal to the state",
    "the action of every row is the state of the same row",
    "It says where the robot is, not where it goes: a policy that holds still has no error. Record the command, or "
    "take the next row's state.",
    excludes=False,
)
IDLE = Rule(
    "idle",
    "Idle stretches",
    f"for {IDLE_SECONDS:g} s no joint moves by more than {IDLE_MOVE:.0%} of its range, in state and action",
    "Whole action chunks that say: do nothing. With many of them a policy may stop in the same places.",
    excludes=False,
)
LENGTH = Rule(
    "length",
    "Far from the usual length",
    f"an episode is {LENGTH_TIMES:g} times as long or as short as the median of its task, and its modified z-score "
    f"beyond {FAR:g} (of log lengths; from {MIN_EPISODES} episodes on)",
    "A recording that was cut off, or that went on when the task was done. The score is Iglewicz and Hoaglin's (1993).",
)
FAR_RULE = Rule(
    "far",
    "Far from the other episodes",
    f"a joint's mean over the episode lies {FAR_MEAN:.0%} of its range from the median of its task's episodes, and its "
    f"modified z-score is beyond {FAR:g} (from {MIN_EPISODES} episodes on)",
    "Another task, another robot's calibration, or a failed attempt.",
)
TWICE = Rule(
    "twice",
    "The same episode twice",
    "states and actions are those of an earlier episode, value for value",
    "It counts double, and may be both trained on and held out in another dataset.",
)

RULES = (UNREADABLE, BLANK, FROZEN, JUMP_RULE, STILL_RULE, BLOCKED, LAG, COPY, IDLE, LENGTH, FAR_RULE, TWICE)
"""In the order in which they are reported."""
BY_NAME = {rule.name: rule for rule in RULES}
