"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """Something the caller can mend: its message says what is wrong and what to do, in one line.

    The command line prints the message alone and exits with code 2; it never shows a traceback for it.
    """
