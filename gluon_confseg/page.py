"""Finished runs as one HTML page with the paper's tables and figures; it opens without a network."""

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import jinja2

from . import __version__, figures, paper_tables, results, seeds
from .errors import ConfsegError
from .files import PathLike, write_text
from .paper_tables import NOT_RUN, RunSet
from .results import Results
from .table import Table

RESULTS_FILE, OVERLAYS_FILE = "results.json", "overlays.png"  # in a run's folder
TEMPLATES = Path(__file__).resolve().parent / "templates"
_INTRODUCTION = (
    "Geng, Huang, Zhou, Yang: A Network Structure to Explicitly Reduce Confusion Errors in Semantic Segmentation, "
    "arXiv 2018: what the paper prints beside what finished runs of gluon_confseg gave. Nothing that was not run is "
    "filled in from the paper."
)


@dataclass(frozen=True)
class Source:
    """Finished results, and the file that they are from."""

    path: Path
    results: Results


@dataclass(frozen=True)
class Picture:
    """A PNG with a caption; Jupyter shows it as a picture."""

    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        """The PNG as text."""
        return base64.b64encode(self.png).decode()

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True)
class Part:
    """What the page shows of runs that differ in the seed only; `missing` says what it cannot show, and why."""

    title: str
    tables: Tuple[Table, ...]
    figures: Tuple[Picture, ...]
    missing: Tuple[str, ...]


def read_sources(paths: Sequence[PathLike]) -> List[Source]:
    """Results of run folders and results.json files; ConfsegError where one is neither."""
    found = []
    for path in map(Path, paths):
        file = path / RESULTS_FILE if path.is_dir() else path
        if path.is_dir() and not file.is_file():
            raise ConfsegError(
                f"{path} holds no {RESULTS_FILE}: it is no run, or not finished; run it to the end first"
            )
        found.append(Source(file, results.read(file)))
    return found


def default_sources(committed: Path, local: Path) -> List[Source]:
    """The results in the folder `committed`, and the newest run below `local`, with the other seeds of its study.

    Of the same seed of the same settings the local one is shown.
    """
    newest = sorted([*local.glob(f"*/{RESULTS_FILE}"), *local.glob(f"*/seed*/{RESULTS_FILE}")], key=_written)[-1:]
    if newest and newest[0].parent.parent != local:
        newest = sorted(newest[0].parent.parent.glob(f"seed*/{RESULTS_FILE}"))
    own = read_sources(newest)

    def replaced(source: Source) -> bool:
        same = [each.results for each in own if each.results.seed == source.results.seed]
        return any(seeds.comparable(each, source.results) for each in same)

    return [source for source in read_sources(sorted(committed.glob("*.json"))) if not replaced(source)] + own


def _written(path: Path) -> float:
    return path.stat().st_mtime


def write(path: PathLike, sources: Sequence[Source]) -> None:
    """Write the page, atomically. Raises ConfsegError for no results, and the same ones twice."""
    if not sources:
        raise ConfsegError("a report needs at least one finished run")
    sets = paper_tables.run_sets([source.results for source in sources])
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(str(TEMPLATES)), autoescape=True)
    text = environment.get_template("page.html").render(
        title="Confusion errors: the paper's tables, reproduced",
        introduction=_INTRODUCTION,
        sources=[_described(each, sources) for each in sets] + [_version_line(sources)],
        tables=paper_tables.all_tables(sets),
        absent=paper_tables.figures_not_run(sets),
        parts=[part(each, sources) for each in sets],
        not_run=NOT_RUN,
    )
    write_text(path, text)


def _described(each: RunSet, sources: Sequence[Source]) -> str:
    """A set's runs and the files they are from."""
    numbers = seeds.listed([run.seed for run in each.runs])
    files = [
        source.path.name if source.path.name != RESULTS_FILE else f"{source.path.parent.name}/{RESULTS_FILE}"
        for run in each.runs
        for source in sources
        if source.results is run
    ]
    return f"{each.first.name}: {each.label.rsplit(', ', 1)[0]}, {numbers} ({', '.join(files)})"


def _version_line(sources: Sequence[Source]) -> str:
    made = sorted({str(source.results.versions.get("gluon_confseg", "unknown")) for source in sources})
    return f"page written by gluon_confseg {__version__}; runs made by {', '.join(made)}"


def part(each: RunSet, sources: Sequence[Source]) -> Part:
    """Tables and pictures of runs that differ in the seed only; the pictures are of the first seed that has them."""
    homes = {id(source.results): source.path.parent for source in sources}
    shown, missing = _overlays(each, homes)
    return Part(
        f"{each.first.name}: {each.label}",
        (*seeds.tables(each.runs), results.class_table(each.first)),
        tuple([*_drawn(each), *shown]),
        tuple(missing),
    )


def _drawn(each: RunSet) -> List[Picture]:
    """The counterparts of the paper's Figures 2, 5, 6 and 7; the confusion matrices are of the first seed."""
    run, last = each.first, each.best()
    index = {name: i for i, name in enumerate(run.classes)}
    groups = [[index[name] for name in group.classes] for group in run.groups]
    where = seeds.listed([each.seed for each in each.runs])
    made = []
    with tempfile.TemporaryDirectory() as scratch:

        def add(caption: str, draw, *arguments, **options) -> None:
            file = Path(scratch) / f"{len(made)}.png"
            draw(file, *arguments, **options)
            made.append(Picture(caption, file.read_bytes()))

        add(
            "As Figures 2 and 7: confusion matrices before and after, rows are the truth, groups outlined "
            f"(seed {run.seed}).",
            figures.confusion_heatmaps,
            run.baseline.confusion,
            last.confusion,
            run.classes,
            titles=(run.baseline.title, last.title),
            groups=groups,
        )
        if last.key != run.baseline.key:
            caption = f"As Figure 5: IoU per class, baseline and method, and the gains ({where})."
            add(caption, figures.class_bars, each.runs, [last.key])
            rivals = each.rivals()
            if rivals:
                others = " and ".join(rivals.values())
                caption = f"As Figure 6: gains per class, the method's and those of {others} ({where})."
                add(caption, figures.class_bars, each.runs, [last.key, *rivals])
    return made


def _overlays(each: RunSet, homes: Dict[int, Path]) -> Tuple[List[Picture], List[str]]:
    caption = "As Figure 8 and 9: images, truth, predictions and error maps (black: differs; grey: the same), seed "
    for run in each.runs:
        file = homes[id(run)] / OVERLAYS_FILE
        if file.is_file():
            return [Picture(f"{caption}{run.seed}.", file.read_bytes())], []
    return [], ["Figures 8 and 9 need the pictures of a run's folder; only its results.json was given."]
