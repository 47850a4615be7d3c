"""A robot loop to copy: camera to action, with `pippa serve NAME` (docs/robot.md). Needs numpy, pyzmq and msgpack."""

import argparse
import io
import os
import sys
import time

import msgpack
import numpy as np
import zmq


def pack(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def unpack(value):
    return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False) if "as_npy" in value else value


class PolicyClient:
    """GR00T N1.5's protocol. `get_action` raises `zmq.Again` when no answer comes within `timeout` seconds."""

    def __init__(self, address, timeout, token=None):
        self.socket, self.token = zmq.Context.instance().socket(zmq.REQ), token
        for option in (zmq.SNDTIMEO, zmq.RCVTIMEO):
            self.socket.setsockopt(option, int(1000 * timeout))
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    def get_action(self, observation):
        token = {"api_token": self.token} if self.token else {}
        self.socket.send(msgpack.packb({"endpoint": "get_action", "data": observation, **token}, default=pack))
        answer = msgpack.unpackb(self.socket.recv(), object_hook=unpack)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def run(arm, policy, rate, execute, seconds):
    """Ask for a chunk, carry out its first `execute` steps at `rate` Hz, ask again."""
    tick, end = time.monotonic(), time.monotonic() + seconds
    while tick < end and not arm.over:
        chunk = policy.get_action(arm.observe())  # meanwhile the arm stays where it is
        tick = max(tick, time.monotonic())  # a late answer delays the steps; they are never hurried after it
        for step in range(min(execute, len(next(iter(chunk.values()))))):
            arm.act({name: values[step] for name, values in chunk.items()})
            tick += 1 / rate
            time.sleep(max(0.0, tick - time.monotonic()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default="tcp://127.0.0.1:5555")
    parser.add_argument("--arm", choices=("simulated", "so101"), default="simulated")
    parser.add_argument("--rate", type=float, default=20.0, help="steps a second, as in the demonstrations")
    parser.add_argument("--execute", type=int, default=16, help="steps of each chunk that are carried out")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds after which the server is lost")
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    if arguments.arm == "so101":
        from so101 import Arm  # docs/examples/so101.py
    else:
        from trainer.data.synthetic_arm import SimulatedArm as Arm
    arm = Arm()
    policy = PolicyClient(arguments.server, arguments.timeout, os.environ.get("PIPPA_SERVE_TOKEN"))
    try:
        print("Acting. Ctrl-C stops it.", flush=True)
        run(arm, policy, arguments.rate, arguments.execute, arguments.seconds)
        print("Done.", *sorted(arm.stages))
    except zmq.Again:
        sys.exit(f"No answer from {arguments.server} within {arguments.timeout:g} s: the arm holds.")
    except RuntimeError as refusal:
        sys.exit(f"The server refuses: {refusal} The arm holds.")
    except KeyboardInterrupt:
        print("Stopped: the arm holds.")
    finally:
        arm.hold()


if __name__ == "__main__":
    main()
