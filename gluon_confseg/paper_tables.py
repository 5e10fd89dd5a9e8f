"""Tables 1 to 5 of the paper, with what finished runs gave beside what it prints; a cell that nobody ran says so.

Runs that differ in the seed only are one column. Scores are percent, gains and differences points of mIoU.
"""

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

from . import paper, results, seeds
from .errors import ConfsegError
from .labels import get as label_set
from .results import Cell, Results
from .table import NONE, Table

NOT_RUN = "not run"
_TABLE1 = (("Cityscapes", "cityscapes"), ("PASCAL VOC", "voc"))
_FIGURES = (  # by the number of the table whose networks they are of
    (3, "Figures 2, 5, 6, 8 and 9", "ResNet-101 on Cityscapes"),
    (4, "Figure 7", "ResNet-38 on Cityscapes"),
)
_TABLE_OF_NUMBER = {
    3: "table3_resnet101_cityscapes",
    4: "table4_resnet38_cityscapes",
    5: "table5_resnet101_voc",
}


@dataclass(frozen=True)
class RunSet:
    """Runs that differ in the seed only."""

    runs: Tuple[Results, ...]

    @property
    def first(self) -> Results:
        return self.runs[0]

    @property
    def label(self) -> str:
        """Where the numbers are from: images, encoder, seeds."""
        data, encoder = self.first.dataset, self.first.config["encoder"]["name"]
        images = f"built-in {data.name} images" if self.is_built_in else f"{data.name} {data.val.split}"
        count = f"{len(self.runs)} seed{'s' if len(self.runs) > 1 else ''}"
        return f"{images}, {encoder}, {len(self.first.cells)} cells, {count}"

    @property
    def is_built_in(self) -> bool:
        """Whether the images are the synthetic ones."""
        return self.first.dataset.source == "built-in"

    def same(self, key: str) -> List[Cell]:
        """A cell in every run."""
        return [run.cell(key) for run in self.runs]

    def has(self, key: str) -> bool:
        return any(cell.key == key for cell in self.first.cells)

    def gains(self, key: str) -> List[float]:
        """mIoU (fractions) over the same run's baseline."""
        return [run.cell(key).miou - run.baseline.miou for run in self.runs]

    def best(self) -> Cell:
        """The last of the paper's cells, its whole method; the baseline where none was run."""
        return [cell for cell in self.first.cells if cell.role in ("baseline", "paper")][-1]

    def rivals(self) -> Dict[str, str]:
        """Titles by key of what the method is drawn beside: loss max-pooling, as in Figure 6, and the best control."""
        losses = self.first.config.get("losses", {})
        pooled = [name for name, loss in losses.items() if loss["kind"] == "loss_max_pooling"]
        settings = {cell["key"]: cell for cell in self.first.config.get("cells", ())}
        controls = [cell for cell in self.first.cells if cell.role == "control"]
        found = [cell for cell in controls if settings.get(cell.key, {}).get("subnet0") in pooled]
        if controls:
            found.append(max(controls, key=lambda cell: sum(self.gains(cell.key))))
        return {cell.key: cell.title for cell in found}


def run_sets(runs: Sequence[Results]) -> List[RunSet]:
    """Runs put together that differ in the seed only, in the order of their first.

    Raises ConfsegError where the same seed of the same settings is there twice.
    """
    found: List[List[Results]] = []
    for run in runs:
        home = next((group for group in found if seeds.comparable(group[0], run)), None)
        if home is None:
            found.append([run])
        elif any(other.seed == run.seed for other in home):
            raise ConfsegError(f"{run.name}, seed {run.seed}: these results are there twice; give each run once")
        else:
            home.append(run)
    return [RunSet(tuple(sorted(group, key=lambda run: run.seed))) for group in found]


def table1(sets: Sequence[RunSet]) -> Table:
    """The confusing groups: the paper's, and those of the runs."""
    rows = []
    for title, name in _TABLE1:
        for number, classes in enumerate(label_set(name).named_groups["paper"], 1):
            rows.append((title, "paper", str(number), ", ".join(classes), str(len(classes) + 1)))
    for each in sets:
        for found, numbers in _by_groups(each).items():
            where = f"{each.label.rsplit(', ', 1)[0]}, {seeds.listed(numbers)}"
            for number, classes in enumerate(found, 1):
                rows.append((each.first.name, where, str(number), ", ".join(classes), str(len(classes) + 1)))
    notes = ("outputs: the group's classes and one for all others",)
    return Table("Table 1: confusing groups", ("data", "groups of", "subnet", "classes", "outputs"), rows, notes, 4)


def _by_groups(each: RunSet) -> Dict[Tuple[Tuple[str, ...], ...], List[int]]:
    """The seeds that have the same groups."""
    found: Dict[Tuple[Tuple[str, ...], ...], List[int]] = {}
    for run in each.runs:
        found.setdefault(tuple(tuple(group.classes) for group in run.groups), []).append(run.seed)
    return found


def table2(sets: Sequence[RunSet]) -> Table:
    """Gains that other methods report on Cityscapes val, and those of runs of Table 3."""
    rows = []
    for other in paper.TABLE2:
        name = "the paper's method" if other.category is None else other.model
        numbers = (other.baseline_miou, other.improved_miou, other.gain)
        techniques = ", ".join(other.techniques) or NONE
        rows.append((name, other.category or NONE, other.baseline, techniques, *map(_printed, numbers)))
    for each in _of_table(sets, 3):
        last = each.best()
        base = seeds.spread([run.baseline.miou for run in each.runs])
        improved, gain = seeds.spread([c.miou for c in each.same(last.key)]), seeds.spread(each.gains(last.key))
        rows.append((f"this software: {each.label}", NONE, each.first.config["encoder"]["name"], NONE, base))
        rows[-1] += (improved, gain)
    if not _of_table(sets, 3):
        rows.append(("this software", NONE, NONE, NONE, NOT_RUN, NOT_RUN, NOT_RUN))
    headers = ("method", "problem", "baseline", "with", "baseline mIoU", "improved mIoU", "gain")
    notes = (
        "problem: I imbalanced data, F feature extraction, B batch normalisation (the paper's categories)",
        "ours beside them only as far as images and network are the same",
        f"slip: {paper.SLIPS['resnet101']}",
    )
    return Table("Table 2: gains of other methods, Cityscapes val, mIoU %", headers, rows, notes, 4)


def table_of_cells(number: int, sets: Sequence[RunSet]) -> Table:
    """Table 3, 4 or 5: the paper's cells with ours, then the controls and variants that it does not have."""
    printed = paper.table(_TABLE_OF_NUMBER[number])
    chosen = _of_table(sets, number)
    base = printed.cells["subnet0_ce"]
    headers = ["cell", "paper", "paper's gain"]
    for index in range(len(chosen)):
        mark = f" [{index + 1}]" if len(chosen) > 1 else ""
        headers += [f"ours{mark}", f"our gain{mark}", f"gain: ours - paper's{mark}"]
    rows = []
    for key, title in _titles(printed, chosen).items():
        theirs = printed.cells.get(key)
        gain = None if theirs is None or key == "subnet0_ce" else theirs - base
        row = [title, _printed(theirs), _signed(gain)]
        for each in chosen:
            row += _ours(each, key, gain)
        rows.append(row if chosen else [*row, NOT_RUN, NOT_RUN, NOT_RUN])
    headers += [] if chosen else ["ours", "our gain", "gain: ours - paper's"]
    marks = [f"[{i}] " if len(chosen) > 1 else "" for i in range(1, len(chosen) + 1)]
    other = "; other images than the paper's: no reproduction"
    notes = [f"{mark}ours: {each.label}{other if each.is_built_in else ''}" for mark, each in zip(marks, chosen)]
    notes += ["mean ± sample standard deviation over seeds; gains are paired with the same seed's baseline"]
    notes += ["* control: not in the paper; a gain counts only as far as it exceeds the controls'"]
    notes += [f"slip: {slip}" for slip in printed.slips]
    return Table(f"{printed.title}, mIoU %", headers, rows, notes)


def all_tables(sets: Sequence[RunSet]) -> List[Table]:
    """Tables 1 to 5."""
    return [table1(sets), table2(sets), *(table_of_cells(number, sets) for number in _TABLE_OF_NUMBER)]


def figures_not_run(sets: Sequence[RunSet]) -> List[str]:
    """A line for the paper's figures of each network whose experiment no run is of."""
    return [
        f"{which} of the paper ({printed}): {NOT_RUN}; what was run is drawn in the same manner"
        for number, which, printed in _FIGURES
        if all(each.is_built_in for each in _of_table(sets, number))
    ]


def _of_table(sets: Sequence[RunSet], number: int) -> List[RunSet]:
    return [each for each in sets if each.first.paper_table == _TABLE_OF_NUMBER[number]]


def _titles(printed: paper.PaperTable, sets: Sequence[RunSet]) -> Dict[str, str]:
    """Rows by key: the paper's cells first, then what the runs have besides."""
    titles = {key: paper.CELL_TITLES[key] for key in printed.cells}
    for each in sets:
        for cell in each.first.cells:
            titles.setdefault(cell.key, results.title(cell))
    return titles


def _ours(each: RunSet, key: str, paper_gain: float) -> List[str]:
    """[mIoU, gain, gain less the paper's]."""
    if not each.has(key):
        return [NOT_RUN] * 3
    scores = seeds.spread([cell.miou for cell in each.same(key)])
    if key == each.first.baseline.key:
        return [scores, NONE, NONE]
    gains = each.gains(key)
    less = NONE if paper_gain is None else seeds.spread([g - paper_gain / 100 for g in gains], sign=True)
    return [scores, seeds.spread(gains, sign=True), less]


def _printed(value: float) -> str:
    return NONE if value is None else f"{value:.2f}"


def _signed(value: float) -> str:
    return NONE if value is None else f"{value:+.2f}"
