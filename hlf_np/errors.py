"""The one exception that stands for a user's mistake."""

from typing import Any


class UserError(ValueError):
    """Something the caller can mend: its message says what is wrong and what to do, in one line.

    The command line prints the message alone and exits with code 2; it never shows a traceback for it.
    """


def place_of(function: Any) -> str:
    """Where a function of the user was written, for messages: " (my_ideas.py:12)"; nothing if it does not say."""
    code = getattr(function, "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
