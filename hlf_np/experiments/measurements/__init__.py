"""The numbers measured on a trained model. Each is declared once: its column, its title and how to compute it.

To add one, append it to `built_in.MEASUREMENTS`, or declare it in a plugin. It becomes a column of `results.csv`; its
`Display` says whether tables, figures and the report show it, too. Measurements read a `Subject`, the trained model
under examination, which performs work shared by several of them, such as an attack, only once.
"""

from hlf_np.experiments.measurements.measurement import Display, Measurement, measure
from hlf_np.experiments.measurements.subject import Subject

__all__ = ["Display", "Measurement", "Subject", "measure"]
