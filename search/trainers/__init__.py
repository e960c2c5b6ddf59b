"""Trainers: each owns one device and one population on it; a runner drives them by a few messages.

A trainer knows nothing of Optuna, MLflow or other trainers, and the runner cannot tell its homes apart: `LocalTrainer`
lives in the runner's own process, `ProcessTrainer` in one of its own, `RayTrainer` on any machine of a cluster; the
latter two end when their runner does.
"""

from search.trainers.actor import RayTrainer
from search.trainers.cluster import RayCluster, RayWishes
from search.trainers.interface import (
    NOTHING_OWN,
    KilledForMemory,
    OutOfMemory,
    Own,
    Report,
    StudyData,
    Trainer,
    TrainerDied,
    TrainerLost,
    TrainerSetup,
    TrainerStopped,
    wait_for_any,
)
from search.trainers.local import LocalTrainer
from search.trainers.machine import cores, find_kernels, pick_devices
from search.trainers.process import ProcessTrainer

__all__ = [
    "NOTHING_OWN",
    "KilledForMemory",
    "LocalTrainer",
    "OutOfMemory",
    "Own",
    "ProcessTrainer",
    "RayCluster",
    "RayTrainer",
    "RayWishes",
    "Report",
    "StudyData",
    "Trainer",
    "TrainerDied",
    "TrainerLost",
    "TrainerSetup",
    "TrainerStopped",
    "cores",
    "find_kernels",
    "pick_devices",
    "wait_for_any",
]
