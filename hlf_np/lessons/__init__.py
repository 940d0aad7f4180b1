"""Lessons: worksheets whose functions the reader fills in, and checks that say what is wrong with an answer.

Each file in `worksheets/` is one lesson: text, code, exercises with their model answers, and the checks. `lesson` turns
it into a worksheet without the answers, `check` runs the checks on what a student wrote, and `hints` is what the
checks are written with. TEACHING.md tells how to use, change and grade the lessons.
"""

from hlf_np.lessons.check import Outcome, Status, check
from hlf_np.lessons.hints import Hint, as_array, call, compare, numerical_gradient
from hlf_np.lessons.lesson import Lesson, lessons

__all__ = [
    "Hint",
    "Lesson",
    "Outcome",
    "Status",
    "as_array",
    "call",
    "check",
    "compare",
    "lessons",
    "numerical_gradient",
]
