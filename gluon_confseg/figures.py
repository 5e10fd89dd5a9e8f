"""Pictures of a run: confusion heat maps, per-class bars, overlays and error maps. Written as PNG, atomically.

Everything goes through Matplotlib's object API on an Agg canvas: no pyplot, and the caller's rcParams are as before.
"""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from .confusion import ConfusionMatrix
from .errors import ConfsegError
from .files import atomic_path
from .labels import IGNORE_LABEL, LabelSet
from .results import Cell, Results
from .seeds import spread

PathLike = Union[str, Path]

ERROR, SAME, IGNORED = (0, 0, 0), (160, 160, 160), (255, 255, 255)  # the paper's Figure 9, and white for ignored truth
_MAX_BYTES = 2_000_000
_STRIP = 256  # rows that an overlay mixes at a time: Pillow holds five pictures meanwhile
_WHISKER = {"error_kw": {"elinewidth": 0.8, "ecolor": "0.15"}}
# Okabe and Ito's colour-blind-safe palette; grey is the baseline's
_BAR_COLORS = ("#8c8c8c", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
_OUTLINE = (("black", 4.5), ("white", 2.0))  # seen on every colour of the scale, by everybody


@dataclass(frozen=True)
class OverlayRow:
    """An image of the page: RGB uint8 HxWx3; its label and its predictions (by title): train ids, uint8 HxW."""

    id: str
    image: np.ndarray
    label: np.ndarray
    predictions: Mapping[str, np.ndarray]


def confusion_heatmaps(
    path: PathLike,
    before: np.ndarray,
    after: np.ndarray,
    class_names: Sequence[str],
    *,
    titles: Tuple[str, str],
    groups: Sequence[Sequence[int]] = (),
) -> None:
    """Two confusion matrices side by side, rows normalised, as in the paper's Figure 2: see `heatmaps`."""
    heatmaps(path, dict(zip(titles, (before, after))), class_names, groups=groups)


def heatmaps(
    path: PathLike,
    matrices: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    *,
    groups: Sequence[Sequence[int]] = (),
) -> None:
    """One or more confusion matrices (by title) side by side, rows normalised.

    matrices: pixel counts, integers KxK, rows = truth. The common colour scale (power 0.4) shows errors of a few
    percent; cells from 1 % on carry their percentage (up to 80 classes); a class without true pixels is a grey row.
    groups: class indices; the cells between the classes of a group are outlined.
    Raises ConfsegError where a matrix does not fit the names.
    """
    shares = [_row_shares(counts, class_names) for counts in matrices.values()]
    # inches; beyond 60 classes the cells shrink, so that the picture stays a page
    side = min(len(class_names) * float(np.clip(5.0 / len(class_names), 0.34, 0.62)), 20.4)
    cell = side / len(class_names)
    norm, colormap = PowerNorm(0.4, 0.0, 1.0), matplotlib.colormaps["viridis"].with_extremes(bad="0.75")
    names_length = 0.085 * max(map(len, class_names))  # inches
    with _page(path, (len(shares) * side + names_length + 1.9, side + names_length + 1.0), dpi=120) as figure:
        row = figure.subplots(1, len(shares), sharey=True, squeeze=False)[0]
        for axes, share, title in zip(row, shares, matrices):
            axes.imshow(np.ma.masked_invalid(share), cmap=colormap, norm=norm)
            if cell >= 0.25:
                _write_percentages(axes, share, colormap, norm, size=7.5 if len(class_names) > 12 else 9)
            for color, thickness in _OUTLINE:
                lines = _outlines(groups, len(class_names))
                axes.add_collection(LineCollection(lines, colors=color, linewidths=thickness, clip_on=False))
            axes.set_title(title, fontsize=12, pad=8)
            axes.set_xticks(range(len(class_names)), class_names, rotation=90)
            axes.tick_params(labelsize=min(10.0, 60 * cell))
            axes.set_xlabel("predicted class")
        row[0].set_yticks(range(len(class_names)), class_names)
        row[0].set_ylabel("true class")
        bar = figure.colorbar(ScalarMappable(norm, colormap), ax=list(row), shrink=0.85, pad=0.015, aspect=30)
        ticks = (0, 1, 5, 10, 20, 40, 60, 80, 100)
        bar.set_ticks([tick / 100 for tick in ticks], labels=[str(tick) for tick in ticks])
        bar.set_label("percent of the true class's pixels")


def class_bars(path: PathLike, runs: Sequence[Results], cells: Optional[Sequence[str]] = None) -> None:
    """Per-class IoU of the baseline and of `cells` (keys), and the gain over the baseline, in label order.

    Of runs that differ in the seed: means, with the sample standard deviation as a line; gains are paired. Without
    `cells`: the paper's cells and the controls, at most 7. A class without true pixels is marked. Raises ConfsegError
    for an unknown key and for more cells than there are colours.
    """
    results = runs[0]
    chosen = _chosen(results, cells)
    names, count = results.classes, len(results.classes)
    thickness = 0.84 / (len(chosen) + 1)
    with _page(path, (11.5, count * max(0.34, 0.13 * (len(chosen) + 1)) + 1.7), dpi=110) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for number, cell in enumerate([results.baseline, *chosen]):
            where = np.arange(count) - 0.42 + thickness * (number + 0.5)
            legend = f"{cell.title}: mIoU {spread([run.cell(cell.key).miou for run in runs])} %"
            color, iou = _BAR_COLORS[number], _iou_points(runs, cell.key)
            left.barh(where, iou.mean(axis=0), thickness, xerr=_deviation(iou), color=color, label=legend, **_WHISKER)
            if number:
                _gain_bars(right, where, thickness, iou - _iou_points(runs, results.baseline.key), color)
        for index in np.flatnonzero(np.sum(results.baseline.confusion, axis=1) == 0):
            left.text(1, index, "not in these images", va="center", fontsize=8, style="italic", color="0.4")
        _finish_bars(left, right, names)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def overlays(path: PathLike, rows: Sequence[OverlayRow], label_set: LabelSet) -> None:
    """A page of images: per image, the image above the truth, and every prediction above its error map.

    Classes are colours over the grey image; the legend lists those that occur. Every row has the same prediction
    titles, in the same order. Raises ConfsegError for no row, other titles, and shapes that differ from the image's.
    """
    _check_rows(rows)
    legend = _legend(rows, label_set)
    columns, width, line = 1 + len(rows[0].predictions), 3.3, 0.24
    aspects = [min(max(row.label.shape[0] / row.label.shape[1], 0.3), 1.1) for row in rows]
    legend_columns = max(1, min(len(legend), int(columns * width / 1.65)))
    # two lines of pictures with a title each, and a gap below; the legend has one more line, for the error maps
    heights = [2 * (width * aspect + line) + 0.15 for aspect in aspects]
    heights.append(line * (math.ceil(len(legend) / legend_columns) + 1) + 0.2)
    with _page(path, (columns * width, sum(heights)), dpi=100) as figure:
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
        *blocks, foot = figure.subfigures(len(heights), 1, height_ratios=heights)
        for block, row in zip(blocks, rows):
            grid = block.subplots(2, columns)
            for upper, lower in grid.T:
                upper.set_anchor("S")  # a narrower picture's spare room goes around the block, not into it
                lower.set_anchor("N")
            _draw_block(grid, row, label_set)
        foot.legend(handles=legend, loc="upper center", ncols=legend_columns, frameon=False, fontsize=9)
        errors = [_patch("differs from the truth", ERROR), _patch("the same", SAME), _patch("not labelled", IGNORED)]
        foot.legend(handles=errors, loc="lower center", ncols=3, frameon=False, fontsize=9)


def overlay(image: np.ndarray, label: np.ndarray, label_set: LabelSet, *, opacity: float = 0.6) -> np.ndarray:
    """The classes' colours over the image in grey: uint8 HxWx3. An ignored pixel stays the grey image."""
    mixed = np.empty(image.shape, np.uint8)
    for top in range(0, len(image), _STRIP):
        rows = slice(top, top + _STRIP)
        mixed[rows] = _mixed(image[rows], label[rows], label_set, opacity)
    return mixed


def _mixed(image: np.ndarray, label: np.ndarray, label_set: LabelSet, opacity: float) -> Image.Image:
    grey = Image.fromarray(image).convert("L").convert("RGB")
    mixed = Image.blend(grey, Image.fromarray(label_set.colorize(label)), opacity)
    mixed.paste(grey, mask=Image.fromarray(label == IGNORE_LABEL))
    return mixed


def error_map(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The paper's Figure 9, uint8 HxWx3: black where they differ, grey where not, white where the truth is ignored."""
    differs = np.where((label == prediction)[:, :, None], SAME, ERROR)
    return np.where((label == IGNORE_LABEL)[:, :, None], IGNORED, differs).astype(np.uint8)


@contextlib.contextmanager
def _page(path: PathLike, size: Tuple[float, float], *, dpi: int) -> Iterator[Figure]:
    """A figure with Matplotlib's own defaults, saved on success; the resolution falls until the file is moderate."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False  # a name may have dollar signs
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with atomic_path(path) as temporary:
            while True:
                figure.savefig(temporary, dpi=dpi, format="png", bbox_inches="tight", pad_inches=0.12)
                if temporary.stat().st_size <= _MAX_BYTES or dpi < 40:
                    break
                dpi = int(0.8 * dpi)


def _row_shares(counts: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Row-normalised counts; nan in the row of a class without pixels."""
    if np.shape(counts) != (len(class_names), len(class_names)):
        raise ConfsegError(
            f"a confusion matrix of shape {np.shape(counts)} does not fit {len(class_names)} class names"
        )
    matrix = ConfusionMatrix.from_counts(np.asarray(counts, np.int64))
    return np.where(matrix.counts.sum(axis=1, keepdims=True) > 0, matrix.row_normalized(), np.nan)


def _write_percentages(axes, share: np.ndarray, colormap, norm, *, size: float) -> None:
    for row, column in zip(*np.nonzero(np.nan_to_num(share) >= 0.01)):
        red, green, blue, _ = colormap(norm(share[row, column]))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = f"{100 * share[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if dark else "black")


def _outlines(groups: Sequence[Sequence[int]], num_classes: int) -> List[List[Tuple[float, float]]]:
    """Line segments, in cell coordinates, around the cells (i, j) with i and j in the same group."""
    segments = []
    for group in groups:
        inside = np.zeros((num_classes + 2, num_classes + 2), bool)
        inside[np.ix_(np.add(group, 1), np.add(group, 1))] = True
        # a border between rows r and r + 1 of the padded mask lies at y = r - 0.5
        for r, c in zip(*np.nonzero(inside[1:] != inside[:-1])):
            segments.append([(c - 1.5, r - 0.5), (c - 0.5, r - 0.5)])
        for r, c in zip(*np.nonzero(inside[:, 1:] != inside[:, :-1])):
            segments.append([(c - 0.5, r - 1.5), (c - 0.5, r - 0.5)])
    return segments


def _chosen(results: Results, keys: Optional[Sequence[str]]) -> List[Cell]:
    if keys is None:
        chosen = [cell for cell in results.cells if cell.role in ("paper", "control")][: len(_BAR_COLORS) - 1]
    else:
        chosen = [results.cell(key) for key in keys if key != results.baseline.key]
    if len(chosen) >= len(_BAR_COLORS):
        raise ConfsegError(f"{len(chosen)} cells do not fit one bar chart; choose at most {len(_BAR_COLORS) - 1}")
    return chosen


def _iou_points(runs: Sequence[Results], key: str) -> np.ndarray:
    """(runs, K) IoU in percent; nan where a class is neither in the truth nor predicted."""
    return 100 * np.array([run.cell(key).iou for run in runs], float)  # None becomes nan


def _deviation(values: np.ndarray) -> Optional[np.ndarray]:
    return values.std(axis=0, ddof=1) if len(values) > 1 else None


def _gain_bars(axes, where: np.ndarray, thickness: float, gains: np.ndarray, color: str) -> None:
    """gains: (runs, K) points."""
    deviation = _deviation(gains)
    axes.barh(where, gains.mean(axis=0), thickness, xerr=deviation, color=color, **_WHISKER)
    for y, gain, length in zip(where, gains.mean(axis=0), np.zeros(len(where)) if deviation is None else deviation):
        if not np.isnan(gain):
            side, sign = ("left", 1) if gain >= 0 else ("right", -1)
            text = f"{gain:+.1f}" if abs(gain) >= 0.05 else "0.0"
            place = {"textcoords": "offset points", "ha": side, "va": "center"}
            axes.annotate(text, (gain + sign * length, y), (3 * sign, 0), fontsize=7, **place)


def _finish_bars(left, right, names: Sequence[str]) -> None:
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlim(0, 100)
    left.set_xlabel("IoU, %")
    right.set_xlabel("gain over the baseline, points")
    right.axvline(0, color="0.3", linewidth=0.8)
    right.margins(x=0.16)
    right.spines["left"].set_visible(False)
    for axes in (left, right):
        axes.set_axisbelow(True)
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        for border in range(1, len(names)):
            axes.axhline(border - 0.5, color="0.93", linewidth=0.8, zorder=0)


def _check_rows(rows: Sequence[OverlayRow]) -> None:
    if not rows:
        raise ConfsegError("a page of overlays needs at least one image")
    for row in rows:
        if list(row.predictions) != list(rows[0].predictions):
            raise ConfsegError(
                f"image {row.id}: its predictions are not those of {rows[0].id}; give every row the same titles"
            )
        for name, labels in (("truth", row.label), *row.predictions.items()):
            if labels.shape != row.image.shape[:2]:
                raise ConfsegError(f"image {row.id}: {name} has shape {labels.shape}, the image {row.image.shape[:2]}")


def _draw_block(grid: np.ndarray, row: OverlayRow, label_set: LabelSet) -> None:
    _tile(grid[0, 0], row.image, row.id)
    _tile(grid[1, 0], overlay(row.image, row.label, label_set), "truth")
    valid = row.label != IGNORE_LABEL
    for column, (title, prediction) in enumerate(row.predictions.items(), 1):
        wrong = (prediction != row.label)[valid].mean() if valid.any() else 0.0
        _tile(grid[0, column], overlay(row.image, prediction, label_set), title)
        caption = f"errors: {100 * wrong:.1f} % of labelled pixels"
        # nearest: an error map has three colours and no others
        _tile(grid[1, column], error_map(row.label, prediction), caption, "nearest")


def _tile(axes, picture: np.ndarray, title: str, interpolation: Optional[str] = None) -> None:
    axes.imshow(picture, interpolation=interpolation)
    axes.set_title(title, fontsize=9, pad=3)
    axes.set_axis_off()


def _legend(rows: Sequence[OverlayRow], label_set: LabelSet) -> List[Patch]:
    maps = [labels for row in rows for labels in (row.label, *row.predictions.values())]
    present = np.unique(np.concatenate([np.unique(labels) for labels in maps]))
    return [_patch(label_set.classes[i], label_set.colors[i]) for i in present if i != IGNORE_LABEL]


def _patch(name: str, color: Sequence[int]) -> Patch:
    return Patch(facecolor=np.array(color) / 255, edgecolor="0.3", linewidth=0.5, label=name)
