"""Datasets: LeRobot v2.0/v2.1 folders with GR00T's ``meta/modality.json``, and all that turns them into samples.

``modality``, ``statistics``, ``metadata``, ``configs``, ``checks`` and ``synthetic`` never import torch.
"""
