"""Tables over runs that differ in the seed: means, standard deviations, paired tests.

Runs may have different cells, as where a study was extended: the tables show those that all have, and name the others.

Digits: a standard deviation has two significant digits (one or two decimals), and its mean as many decimals:
54.9 ± 1.1, 54.90 ± 0.34.
"""

from typing import Any, Iterator, List, Sequence, Tuple

import numpy as np

from .config_base import in_turn
from .errors import ConfsegError
from .results import Cell, Results, images_line, notes_of, paper_columns, percent, title
from .table import NONE, Table


def tables(runs: Sequence[Results]) -> List[Table]:
    """All cells, and, where the runs' config asks for them, cells against each other."""
    return [seeds_table(runs)] + ([comparisons_table(runs)] if _comparisons(runs) else [])


def seeds_table(runs: Sequence[Results]) -> Table:
    """Mean ± sample standard deviation over seeds per cell, and the difference to the same seed's baseline.

    The p-value (from 3 seeds on) is that of a two-sided paired t-test on mIoU. Raises ConfsegError for no run, a seed
    that occurs twice, and runs whose data or settings, as far as they matter to the cells that all have, differ in
    anything but the seed and the devices.
    """
    _check_comparable(runs)
    first, shared = runs[0], _shared(runs)
    headers = ["cell", "role", "mIoU %", "difference", "p", "mean recall %", "pixel accuracy %"]
    if first.paper_table:
        headers += ["paper mIoU %", "paper difference"]
    rows = []
    for cell in (cell for cell in first.cells if cell.key in shared):
        same = [run.cell(cell.key) for run in runs]
        row = [title(cell), cell.role, spread([c.miou for c in same]), *_paired(runs, cell)]
        row += [spread([c.mean_recall for c in same]), spread([c.pixel_accuracy for c in same])]
        rows.append(row + (paper_columns(first, cell) if first.paper_table else []))
    n = len(runs)
    numbers = f"{n} seed{'s' if n > 1 else ''} ({', '.join(str(run.seed) for run in runs)})"
    note = f"{images_line(first)}. n = {numbers}: "
    note += "mean ± sample standard deviation over seeds" if n > 1 else "no spread, and nothing is tested"
    note += "; difference: paired with the same seed's baseline"
    note += "; p: two-sided paired t-test, not corrected for the number of rows" if n >= 3 else ""
    notes = [note, *notes_of(first)]
    if any([group.classes for group in run.groups] != [group.classes for group in first.groups] for run in runs):
        notes.append("note: the groups differ between the seeds")
    notes += _left_out(runs)
    return Table(f"{first.name}: all cells", headers, rows, notes, left=2)


def comparisons_table(runs: Sequence[Results]) -> Table:
    """The pairs of cells that the runs' config wants compared: differences paired by seed, in points.

    The p-value (from 3 seeds on) is that of a two-sided paired t-test on mIoU. Raises ConfsegError like `seeds_table`.
    """
    _check_comparable(runs)
    headers = ["cell", "minus", "mIoU", "p", "mean recall", "pixel accuracy"]
    rows = []
    for key, other in _comparisons(runs):
        pairs = [(run.cell(key), run.cell(other)) for run in runs]
        miou = [a.miou - b.miou for a, b in pairs]
        others = (
            [a.mean_recall - b.mean_recall for a, b in pairs],
            [a.pixel_accuracy - b.pixel_accuracy for a, b in pairs],
        )
        first, second = pairs[0]
        scores = [spread(values, sign=True) for values in others]
        rows.append([title(first), title(second), spread(miou, sign=True), _p_value(miou), *scores])
    note = f"{images_line(runs[0])}. n = {len(runs)}: points"
    note += ", mean ± sample standard deviation of the seeds' differences" if len(runs) > 1 else ", nothing is tested"
    note += "; p: two-sided paired t-test on mIoU, not corrected for the number of rows" if len(runs) >= 3 else ""
    return Table(f"{runs[0].name}: cells against each other", headers, rows, [note], left=2)


def comparable(run: Results, other: Results) -> bool:
    """Whether two runs differ in the seed and the devices only; they have the same cells."""
    keys = [cell.key for cell in run.cells]
    if keys != [cell.key for cell in other.cells] or run.dataset.source != other.dataset.source:
        return False
    return dict(_facts(run, keys)) == dict(_facts(other, keys))


def spread(fractions: Sequence[float], *, sign: bool = False) -> str:
    """mean ± sample standard deviation, in percent; the mean alone where there is one value."""
    if len(fractions) == 1:
        return percent(fractions[0], sign=sign)
    points = 100 * np.asarray(fractions)
    deviation = points.std(ddof=1)
    digits = _decimals(deviation)
    mean = round(float(points.mean()), digits) + 0.0
    return f"{mean:{'+' if sign and mean else ''}.{digits}f} ± {deviation:.{digits}f}"


def listed(numbers: Sequence[int]) -> str:
    """Seeds in words: "seed 3", "seeds 0, 1"."""
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _check_comparable(runs: Sequence[Results]) -> None:
    if not runs:
        raise ConfsegError("a table over seeds needs at least one results.json")
    seeds = [run.seed for run in runs]
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ConfsegError(f"seed {seed} occurs twice; give each run's results.json once")
    shared = _shared(runs)
    if any(run.baseline.key not in shared for run in runs):
        raise ConfsegError("these runs have no baseline in common; give runs of one study")
    wanted = dict(_facts(runs[0], shared))
    for run in runs[1:]:
        found = dict(_facts(run, shared))
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            old, new = wanted.get(key), found.get(key)
            if old != new:
                raise ConfsegError(
                    f"runs of seeds {runs[0].seed} and {run.seed} cannot be averaged: {key} is {old!r} and {new!r};"
                    " give runs that differ in the seed only"
                )


def _shared(runs: Sequence[Results]) -> List[str]:
    """Keys of the cells that all runs have, in the order of the first."""
    return [cell.key for cell in runs[0].cells if all(cell.key in (c.key for c in run.cells) for run in runs)]


def _left_out(runs: Sequence[Results]) -> List[str]:
    """One line for all cells that the same seeds have, of those that not all have."""
    shared, seeds_of, titles_of = _shared(runs), {}, {}
    for run in runs:
        for cell in run.cells:
            if cell.key not in shared:
                seeds_of.setdefault((cell.key, cell.title), []).append(run.seed)
    for (_, name), numbers in seeds_of.items():
        titles_of.setdefault(listed(numbers), []).append(name)
    return [f"left out, because run with {numbers} only: {'; '.join(names)}" for numbers, names in titles_of.items()]


def _comparisons(runs: Sequence[Results]) -> List[Tuple[str, str]]:
    """The pairs that any of the runs' configs wants compared, of cells that all have."""
    wanted = dict.fromkeys(tuple(pair) for run in runs for pair in run.config.get("comparisons", ()))
    return [pair for pair in wanted if set(pair) <= set(_shared(runs))]


def _facts(run: Results, keys: Sequence[str]) -> Iterator[Tuple[str, Any]]:
    """What must be equal in runs whose cells `keys` are averaged: dotted key, value."""
    yield "name", run.name
    yield from _leaves(run.dataset.model_dump(exclude={"source"}), "dataset")
    yield "classes", run.classes
    yield "paper_table", run.paper_table
    own = ("seed", "devices", "cells", "losses", "shapes", "comparisons")
    yield from _leaves({key: value for key, value in run.config.items() if key not in own}, "config")
    cells = [cell for cell in run.config.get("cells", ()) if cell["key"] in keys]
    for cell in cells:
        settings = {key: value for key, value in cell.items() if key not in ("key", "title", "role")}
        yield from _leaves(settings, f"config.cells.{cell['key']}")
    used = {loss for cell in cells for loss in (cell["subnet0"], *in_turn(cell["subnets"]))}
    shapes = {shape for cell in cells for shape in in_turn(cell.get("shape"))}
    for section, names in (("losses", used), ("shapes", shapes)):
        settings = run.config.get(section, {})
        yield from _leaves({name: settings[name] for name in settings if name in names}, f"config.{section}")


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
