"""The one exception that stands for a mistake its user can mend, and text of any origin in one line."""


class ConfsegError(ValueError):
    """Bad input: one line saying what is wrong, where, and what to do. The command line exits with 2 on it."""


def one_line(text: str) -> str:
    """Text for a terminal: line breaks, control characters and halves of characters are written as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
