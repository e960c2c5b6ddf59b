"""Trainers: each owns one device and one population on it; a runner drives them by a few messages.

A trainer knows nothing of Optuna, MLflow or other trainers, and the runner cannot tell its homes apart: `LocalTrainer`
lives in the runner's own process, `ProcessTrainer` in one of its own, which ends when its runner does.
"""

from search.trainers.interface import (
    NOTHING_OWN,
    OutOfMemory,
    Own,
    Report,
    StudyData,
    Trainer,
    TrainerLost,
    TrainerSetup,
    TrainerStopped,
)
from search.trainers.local import LocalTrainer
from search.trainers.machine import cores, pick_devices
from search.trainers.process import ProcessTrainer, wait_for_any

__all__ = [
    "NOTHING_OWN",
    "LocalTrainer",
    "OutOfMemory",
    "Own",
    "ProcessTrainer",
    "Report",
    "StudyData",
    "Trainer",
    "TrainerLost",
    "TrainerSetup",
    "TrainerStopped",
    "cores",
    "pick_devices",
    "wait_for_any",
]
