"""The numbers measured on a trained model. Each is declared once: its column, its title and how to compute it.

To add one, append it to `built_in.MEASUREMENTS`, or declare it in a plugin. It becomes a column of `results.csv`; its
`Display` says whether tables, figures and the report show it, too. Measurements read a `Subject`, the trained model
under examination, which performs work shared by several of them, such as an attack, only once.
"""

from hlf_np.experiments.measurements.built_in import (
    FURTHER_RATES,
    MANIFOLDS_AND_IMAGES,
    MEASUREMENTS,
    of_attack,
    of_space,
)
from hlf_np.experiments.measurements.distances import (
    CLEAN,
    DISTANCE_REFERENCES,
    SUBSPACE_REFERENCE,
    TRUE_MANIFOLD_REFERENCE,
    DistanceReference,
)
from hlf_np.experiments.measurements.measurement import KEY_COLUMNS, Display, Measurement, measure
from hlf_np.experiments.measurements.series import (
    ATTACK_PROGRESS,
    EPSILONS,
    ERROR_BY_EPOCH,
    HELD_OUT_BY_EPOCH,
    SELECTION_BY_EPOCH,
    SUCCESS_BY_EPSILON,
    TANGENT_SHARE_BY_STEP,
    THOROUGH_ATTACK,
    EpochTracker,
    attack_series,
    success_by_epoch,
    thorough_success,
)
from hlf_np.experiments.measurements.subject import ExaminationSettings, Subject, collect

__all__ = [
    "ATTACK_PROGRESS",
    "CLEAN",
    "DISTANCE_REFERENCES",
    "EPSILONS",
    "ERROR_BY_EPOCH",
    "FURTHER_RATES",
    "HELD_OUT_BY_EPOCH",
    "KEY_COLUMNS",
    "MANIFOLDS_AND_IMAGES",
    "MEASUREMENTS",
    "SELECTION_BY_EPOCH",
    "SUBSPACE_REFERENCE",
    "SUCCESS_BY_EPSILON",
    "TANGENT_SHARE_BY_STEP",
    "THOROUGH_ATTACK",
    "TRUE_MANIFOLD_REFERENCE",
    "Display",
    "DistanceReference",
    "EpochTracker",
    "ExaminationSettings",
    "Measurement",
    "Subject",
    "attack_series",
    "collect",
    "measure",
    "of_attack",
    "of_space",
    "success_by_epoch",
    "thorough_success",
]
