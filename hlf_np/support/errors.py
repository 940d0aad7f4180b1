"""The exception for user errors."""

from typing import Any


class UserError(ValueError):
    """An error that the caller can fix; the message says in one line what is wrong and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


def source_location(function: Any) -> str:
    """Return where a function was defined, for messages: " (my_ideas.py:12)", or "" if that is unknown."""
    code = getattr(function, "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
