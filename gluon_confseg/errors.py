"""The one exception that stands for a mistake its user can mend."""


class ConfsegError(ValueError):
    """Bad input: one line saying what is wrong, where, and what to do. The command line exits with 2 on it."""
