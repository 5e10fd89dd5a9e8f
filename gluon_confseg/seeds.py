"""Tables over runs that differ in the seed: means, standard deviations, paired tests.

Digits: a standard deviation has two significant digits (one or two decimals), and its mean as many decimals:
54.9 ± 1.1, 54.90 ± 0.34.
"""

from typing import Any, Iterator, List, Sequence, Tuple

import numpy as np

from .errors import ConfsegError
from .results import Cell, Results, images_line, notes_of, paper_columns, percent, title
from .table import NONE, Table


def tables(runs: Sequence[Results]) -> List[Table]:
    """All cells, and, where the runs' config asks for them, cells against each other."""
    return [seeds_table(runs)] + ([comparisons_table(runs)] if runs[0].config.get("comparisons") else [])


def seeds_table(runs: Sequence[Results]) -> Table:
    """Mean ± sample standard deviation over seeds per cell, and the difference to the same seed's baseline.

    The p-value (from 3 seeds on) is that of a two-sided paired t-test on mIoU. Raises ConfsegError for no run, a seed
    that occurs twice, and runs whose data, cells or config differ in anything but the seed and the devices.
    """
    _check_comparable(runs)
    first = runs[0]
    headers = ["cell", "role", "mIoU %", "difference", "p", "mean recall %", "pixel accuracy %"]
    if first.paper_table:
        headers += ["paper mIoU %", "paper difference"]
    rows = []
    for cell in first.cells:
        same = [run.cell(cell.key) for run in runs]
        row = [title(cell), cell.role, spread([c.miou for c in same]), *_paired(runs, cell)]
        row += [spread([c.mean_recall for c in same]), spread([c.pixel_accuracy for c in same])]
        rows.append(row + (paper_columns(first, cell) if first.paper_table else []))
    n = len(runs)
    numbers = f"{n} seed{'s' if n > 1 else ''} ({', '.join(str(run.seed) for run in runs)})"
    note = f"{images_line(first)}. n = {numbers}: mean ± sample standard deviation over seeds"
    note += "; difference: paired with the same seed's baseline"
    note += "; p: two-sided paired t-test, not corrected for the number of rows" if n >= 3 else ""
    notes = [note, *notes_of(first)]
    if any([group.classes for group in run.groups] != [group.classes for group in first.groups] for run in runs):
        notes.append("note: the groups differ between the seeds")
    return Table(f"{first.name}: all cells", headers, rows, notes, left=2)


def comparisons_table(runs: Sequence[Results]) -> Table:
    """The pairs of cells that the runs' config wants compared: differences paired by seed, in points.

    The p-value (from 3 seeds on) is that of a two-sided paired t-test on mIoU. Raises ConfsegError like `seeds_table`.
    """
    _check_comparable(runs)
    headers = ["cell", "minus", "mIoU", "p", "mean recall", "pixel accuracy"]
    rows = []
    for key, other in runs[0].config.get("comparisons", ()):
        pairs = [(run.cell(key), run.cell(other)) for run in runs]
        miou = [a.miou - b.miou for a, b in pairs]
        others = (
            [a.mean_recall - b.mean_recall for a, b in pairs],
            [a.pixel_accuracy - b.pixel_accuracy for a, b in pairs],
        )
        first, second = pairs[0]
        scores = [spread(values, sign=True) for values in others]
        rows.append([title(first), title(second), spread(miou, sign=True), _p_value(miou), *scores])
    note = (
        f"{images_line(runs[0])}. n = {len(runs)}: points, mean ± sample standard deviation of the seeds' differences"
    )
    note += "; p: two-sided paired t-test on mIoU, not corrected for the number of rows" if len(runs) >= 3 else ""
    return Table(f"{runs[0].name}: cells against each other", headers, rows, [note], left=2)


def comparable(run: Results, other: Results) -> bool:
    """Whether two runs differ in the seed and the devices only."""
    return dict(_facts(run)) == dict(_facts(other)) and run.dataset.source == other.dataset.source


def spread(fractions: Sequence[float], *, sign: bool = False) -> str:
    """mean ± sample standard deviation, in percent; the mean alone where there is one value."""
    if len(fractions) == 1:
        return percent(fractions[0], sign=sign)
    points = 100 * np.asarray(fractions)
    deviation = points.std(ddof=1)
    digits = _decimals(deviation)
    mean = round(float(points.mean()), digits) + 0.0
    return f"{mean:{'+' if sign and mean else ''}.{digits}f} ± {deviation:.{digits}f}"


def _check_comparable(runs: Sequence[Results]) -> None:
    if not runs:
        raise ConfsegError("a table over seeds needs at least one results.json")
    seeds = [run.seed for run in runs]
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ConfsegError(f"seed {seed} occurs twice; give each run's results.json once")
    wanted = dict(_facts(runs[0]))
    for run in runs[1:]:
        found = dict(_facts(run))
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            old, new = wanted.get(key), found.get(key)
            if old != new:
                raise ConfsegError(
                    f"runs of seeds {runs[0].seed} and {run.seed} cannot be averaged: {key} is {old!r} and {new!r};"
                    " give runs that differ in the seed only"
                )


def _facts(run: Results) -> Iterator[Tuple[str, Any]]:
    """What must be equal in runs that are averaged: dotted key, value."""
    yield "name", run.name
    yield from _leaves(run.dataset.model_dump(exclude={"source"}), "dataset")
    yield "classes", run.classes
    yield "paper_table", run.paper_table
    yield "cells", ", ".join(cell.key for cell in run.cells)
    yield from _leaves({key: value for key, value in run.config.items() if key not in ("seed", "devices")}, "config")


def _leaves(tree: Any, where: str) -> Iterator[Tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{where}.{key}")
    else:
        yield where, tree


def _decimals(deviation: float) -> int:
    """Two significant digits of a standard deviation in points, but no fewer than one and no more than two decimals."""
    return 1 if deviation >= 0.995 else 2


def _paired(runs: Sequence[Results], cell: Cell) -> List[str]:
    """[difference to the baseline, p]."""
    if cell.role == "baseline":
        return [NONE, NONE]
    differences = [run.cell(cell.key).miou - run.baseline.miou for run in runs]
    return [spread(differences, sign=True), _p_value(differences)]


def _p_value(differences: Sequence[float]) -> str:
    """Two-sided t-test of mean difference 0 (= the paired t-test); none below 3 values or where they do not vary."""
    if len(differences) < 3 or np.std(differences) < 1e-12:
        return NONE
    from scipy import stats  # takes a second to import, and only this needs it

    p = stats.ttest_1samp(differences, 0.0).pvalue
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
