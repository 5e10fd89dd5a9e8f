"""A study: the cells of one file on a config's data and networks, over several seeds; and the tables over the seeds."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import config, pipeline, results, seeds
from .errors import ConfsegError
from .files import write_text
from .run import RESULTS_FILE

TABLES_FILE = "study.md"
KEYS = ("seeds", "losses", "shapes", "cells", "comparisons")


class Study(NamedTuple):
    """`settings` are laid over a config: losses, cells, comparisons."""

    seeds: Tuple[int, ...]
    settings: Dict[str, Any]


def read(path: Path, numbers: Optional[Sequence[int]] = None) -> Study:
    """The study of a YAML file, with other seeds where they are given. Raises ConfsegError naming file and key.

    What the file lays over a config is checked with it, when it is run.
    """
    tree = config.read_tree(path)
    for key in tree:
        if key not in KEYS:
            raise ConfsegError(f"{path}: unknown key {key!r}; a study has {', '.join(KEYS)}")
    found = tree.pop("seeds", None) if numbers is None else list(numbers)
    numbered = isinstance(found, list) and found and all(type(seed) is int and seed >= 0 for seed in found)
    if not numbered or len(set(found)) < len(found):
        raise ConfsegError(f"{path}: seeds: wants a list of different whole numbers of at least 0, got {found}")
    tree.pop("seeds", None)
    return Study(tuple(found), tree)


def run(
    config_path: Path,
    study: Study,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    data_root: Optional[str] = None,
    restart: bool = False,
) -> None:
    """Run every seed in its own folder below `folder`, and write the tables anew after each.

    Raises ConfsegError like `pipeline.run`; the seeds before stay finished.
    """
    done: List[results.Results] = []
    for seed in study.seeds:
        settings = [*overrides, f"seed={seed}"]
        output = str(folder / f"seed{seed}")
        options = {"data_root": data_root, "output": output, "restart": restart, "overlay": study.settings}
        finished = pipeline.run(config_path, overrides=settings, **options)
        done.append(results.read(finished / RESULTS_FILE))
        write_text(folder / TABLES_FILE, "\n\n".join(table.markdown() for table in seeds.tables(done)) + "\n")
    print("\n\n".join(table.plain() for table in seeds.tables(done)))
    print(f"\nthe tables are in {folder / TABLES_FILE}, each seed's run beside it")
