"""A table of text: words and ready-made numbers, printed as Markdown or aligned."""

from dataclasses import dataclass
from typing import Sequence, Tuple

from tabulate import tabulate

NONE = "-"  # printed where there is no number


@dataclass(frozen=True)
class Table:
    """Rows under headers, with notes below; the first `left` columns are words, the others numbers."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: int = 1

    def markdown(self) -> str:
        """The table and its notes, without the title."""
        # a star at the end of a title must not start emphasis
        rows = [[value.replace("*", r"\*") for value in row] for row in self.rows]
        headers = [header.replace("*", r"\*") for header in self.headers]
        body = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=self._align())
        notes = [f"- {note}".replace("*", r"\*") for note in self.notes]
        return "\n".join([body, "", *notes]) if notes else body

    def _repr_markdown_(self) -> str:
        """What Jupyter shows."""
        return f"**{self.title}**\n\n{self.markdown()}"

    def plain(self) -> str:
        """The table as aligned text, and its notes, without the title."""
        body = tabulate(self.rows, self.headers, tablefmt="simple", disable_numparse=True, colalign=self._align())
        return "\n".join([body, *self.notes])

    def _align(self) -> Tuple[str, ...]:
        return ("left",) * self.left + ("right",) * (len(self.headers) - self.left)
