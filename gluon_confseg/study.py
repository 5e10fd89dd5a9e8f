"""A study: the cells of one file on a config's data and networks, over several seeds; and the tables over the seeds."""

import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import config_cells, pipeline, results, seeds
from .config import Config
from .config_tree import read_tree
from .errors import ConfsegError
from .files import write_text
from .origins import heads_of, subnet_settings
from .run import RESULTS_FILE, manifest_path, stage_names

TABLES_FILE = "study.md"
KEYS = ("seeds", "losses", "shapes", "joint", "cells", "comparisons")


class Study(NamedTuple):
    """`settings` are laid over a config: losses, cells, comparisons."""

    seeds: Tuple[int, ...]
    settings: Dict[str, Any]


def read(path: Path, numbers: Optional[Sequence[int]] = None, keys: Sequence[str] = ()) -> Study:
    """The study of a YAML file, with other seeds and with only the cells `keys`, where they are given.

    The baseline is always kept. Raises ConfsegError naming file and key. What the file lays over a config is checked
    with it, when it is run.
    """
    tree = read_tree(path)
    for key in tree:
        if key not in KEYS:
            raise ConfsegError(f"{path}: unknown key {key!r}; a study has {', '.join(KEYS)}")
    found = tree.pop("seeds", None) if numbers is None else list(numbers)
    numbered = isinstance(found, list) and found and all(type(seed) is int and seed >= 0 for seed in found)
    if not numbered or len(set(found)) < len(found):
        raise ConfsegError(f"{path}: seeds: wants a list of different whole numbers of at least 0, got {found}")
    tree.pop("seeds", None)
    return Study(tuple(found), _only(tree, keys, path) if keys else tree)


def _only(tree: Dict[str, Any], keys: Sequence[str], path: Path) -> Dict[str, Any]:
    """With the baseline's cell and those of `keys`, and the comparisons between them."""
    try:
        cells, pairs = tree.get("cells"), config_cells.pairs(tree.get("comparisons", []))
    except ValueError as error:
        raise ConfsegError(f"{path}: {error}") from error
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells) or not isinstance(pairs, list):
        raise ConfsegError(f"{path}: --cells wants lists of cells and comparisons there")
    there = [str(cell.get("key")) for cell in cells]
    for key in keys:
        if key not in there:
            raise ConfsegError(f"--cells: {path} has no cell {key!r}; it has {', '.join(there)}")
    kept = {*there[:1], *keys}
    pairs = [pair for pair in pairs if not isinstance(pair, list) or kept.issuperset(map(str, pair))]
    return {**tree, "cells": [cell for cell, key in zip(cells, there) if key in kept], "comparisons": pairs}


def run(
    config_path: Path,
    study: Study,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    data_root: Optional[str] = None,
    restart: bool = False,
    allow_different: bool = False,
) -> None:
    """Run every seed in its own folder below `folder`, and write the tables anew after each.

    The plan is printed first, and after each seed what is left. Raises ConfsegError like `pipeline.run`; the seeds
    before stay finished.
    """

    def resolved(seed: int) -> Config:
        return pipeline.resolve(config_path, [*overrides, f"seed={seed}"], data_root, study.settings)[1]

    print(_contents(resolved(study.seeds[0]), folder))
    for seed in study.seeds:
        print(f"  seed {seed}: {_status(folder / f'seed{seed}', resolved(seed))}")
    done: List[results.Results] = []
    for seed in study.seeds:
        settings = [*overrides, f"seed={seed}"]
        output = str(folder / f"seed{seed}")
        options = {"data_root": data_root, "output": output, "overlay": study.settings}
        options.update(restart=restart, allow_different=allow_different)
        try:
            finished = pipeline.run(config_path, overrides=settings, **options)
        except KeyboardInterrupt:
            print(f"\n{_interrupted(study.seeds, len(done))}", file=sys.stderr)
            raise
        done.append(results.read(finished / RESULTS_FILE))
        write_text(folder / TABLES_FILE, "\n\n".join(table.markdown() for table in seeds.tables(done)) + "\n")
        print(f"\n{_progress(study.seeds, done)}\n")
    print("\n\n".join(table.plain() for table in seeds.tables(done)))
    print(f"\nthe tables are in {folder / TABLES_FILE}, each seed's run beside it")


def _contents(settings: Config, folder: Path) -> str:
    heads = heads_of(subnet_settings(settings)["heads"], 1)
    first = sum(head.subnet == 0 for head in heads)
    return (
        f"study of {settings.name} in {folder}: {len(settings.cells)} cells; of each seed one baseline, and in one "
        f"pass {first} heads of subnet 0 and {len(heads) - first} for each group"
    )


def _status(folder: Path, settings: Config) -> str:
    """How far a seed is, for people; the chain itself looks closer."""
    if (folder / RESULTS_FILE).is_file():
        had = results.read(folder / RESULTS_FILE)
        wanted, there = [cell.key for cell in settings.cells], {cell.key for cell in had.cells}
        added = [key for key in wanted if key not in there]
        removed = sorted(there - set(wanted))
        parts = [
            f"{len(keys)} {what} ({', '.join(keys)})" for keys, what in ((added, "added"), (removed, "removed")) if keys
        ]
        took = f"finished in {_minutes(had)}"
        return took + (f" with other cells: {', '.join(parts)}" if parts else "")
    finished = [stage for stage in stage_names(settings) if manifest_path(folder, stage).is_file()]
    if finished:
        return f"begun; finished are {', '.join(finished)}"
    return "begun" if folder.is_dir() else "to do"


def _minutes(run: results.Results) -> str:
    return f"{sum(run.seconds.values()) / 60:.1f} minutes"


def _progress(wanted: Sequence[int], done: Sequence[results.Results]) -> str:
    left = wanted[len(done) :]
    still = f"{len(left)} left: {seeds.listed(left)}" if left else "it was the last one"
    return f"{seeds.listed(wanted[len(done) - 1 : len(done)])} is finished ({_minutes(done[-1])}); {still}"


def _interrupted(wanted: Sequence[int], done: int) -> str:
    finished = f"{seeds.listed(wanted[:done])} finished" if done else "no seed finished"
    return f"study interrupted in seed {wanted[done]}: {finished}; the same command continues"
