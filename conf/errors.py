"""The two ways in which qexp stops with one line instead of a traceback."""


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong and what would be right. Exit code 2."""


class RunError(Exception):
    """A failure during a run that is not the input's fault (divergence, a full disk). One line, exit code 1."""


class DiskFullError(RunError):
    """Nothing more can be written: no other experiment could keep its record either."""
