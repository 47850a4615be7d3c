"""An SO-101 through LeRobot's driver, for robot_loop.py: `pip install 'lerobot[feetech]'`, and calibrate it first."""

import numpy as np
from lerobot.cameras.opencv.configuration_opencv import OpenCVCameraConfig
from lerobot.robots.so101_follower import SO101Follower, SO101FollowerConfig

PORT = "/dev/ttyACM0"
CAMERAS = {"front": 0, "wrist": 2}  # as the data config so100_dualcam calls them, and their video devices
TASK = "Grab pens and place into pen holder."  # word for word as in the demonstrations
ARM = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")


class Arm:
    over, stages = False, ()

    def __init__(self):
        cameras = {
            name: OpenCVCameraConfig(index_or_path=device, width=640, height=480, fps=30)
            for name, device in CAMERAS.items()
        }
        self.robot = SO101Follower(
            SO101FollowerConfig(
                port=PORT,
                id="follower",
                cameras=cameras,
                max_relative_target=10.0,  # no step moves a joint further, whatever the policy says
                disable_torque_on_disconnect=False,  # so that it holds when this program ends
            )
        )
        self.robot.connect()

    def observe(self):
        seen = self.robot.get_observation()
        return {
            **{f"video.{name}": seen[name][None] for name in CAMERAS},
            "state.single_arm": np.array([[seen[f"{joint}.pos"] for joint in ARM]]),
            "state.gripper": np.array([[seen["gripper.pos"]]]),
            "annotation.human.task_description": [TASK],
        }

    def act(self, action):
        targets = zip((*ARM, "gripper"), (*action["action.single_arm"], *action["action.gripper"]), strict=True)
        self.robot.send_action({f"{name}.pos": float(value) for name, value in targets})

    def hold(self):
        seen = self.robot.get_observation()
        self.robot.send_action({f"{name}.pos": seen[f"{name}.pos"] for name in (*ARM, "gripper")})
