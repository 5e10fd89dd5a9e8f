"""A run from a config: settings, data, devices, the stages in its folder, what is printed at the end."""

import contextlib
import fcntl
import logging
import os
import platform
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from . import config, launching, preflight, results
from .backend import cpu_model, devices, versions
from .chain import run_stage
from .changes import keep_changed, refuse_changed
from .config_tree import batch_size_of_file
from .data import check_disjoint, find_root
from .data.base import SegmentationDataset
from .data.built_in import built_in_notice, built_in_root
from .data.held_out import open_training_split, open_validation_split
from .errors import ConfsegError
from .files import remove_unfinished, write_json
from .mixed_precision import half_type
from .profiling import profiled
from .profiling import table as profile_table
from .progress import BarHandler
from .run import CONFIG_FILE, LABELS_FILE, PROFILE_FILE, RESULTS_FILE, Run, write_labels
from .sharing import ENVIRONMENT_FILE, job_record, require_same_work
from .stages import named_groups, stages_of
from .workers import ALONE, Job

_log = logging.getLogger(__name__)


def run(
    config_path: Path,
    *,
    overrides: Sequence[str] = (),
    data_root: Optional[str] = None,
    output: Optional[str] = None,
    restart: bool = False,
    allow_different: bool = False,
    profile: bool = False,
    overlay: Optional[Dict[str, Any]] = None,
    job: Job = ALONE,
) -> Path:
    """Run the whole chain of a config; returns the run's folder. Raises ConfsegError for the user's mistakes.

    `restart` : do again what was finished or begun with other settings, data or versions, and what follows
    `allow_different` : keep and continue what was trained so, and note the differences in the stages' files and results
    `overlay` : a tree of settings laid over the config's, as a study has it
    `profile` : measure where the time of the stages that are not finished goes (see profiling.py)
    `job` : this process's place among the workers, who all read the folder and of whom the first writes it
    """
    config_path, settings, root, source = resolve(config_path, overrides, data_root, overlay)
    folder = Path(output) if output else Path("runs") / f"{settings.name}-seed{settings.seed}"
    contexts = devices(settings.devices)
    if restart and allow_different:
        raise ConfsegError("--restart and --allow-different exclude each other; give one")
    if settings.amp:
        half_type(contexts)  # refuses devices that cannot, before anything is written
    with _locked(folder) if job.first else contextlib.nullcontext(), _logged(folder, job):
        _log.info("%s: results go to %s; devices: %s", settings.name, folder, ", ".join(map(str, contexts)))
        _warn_of_other_batches(settings, config_path)
        if root is None:
            _log.warning(built_in_notice(settings))
            root = built_in_root(settings)
        train, val = _open(settings, root)
        this = Run(settings, folder, train.labels, contexts, train, val, source, job)
        if job.first:
            _prepare(this, restart, allow_different)
        require_same_work(this)
        measured = _run_stages(this, profile)
        if job.first:
            _tell(this, measured)
    return folder


def _prepare(this: Run, restart: bool, allow_different: bool) -> None:
    """Look at what is in the run's folder, and at the data, before anything is trained; write down what is run."""
    settings, labels = this.config, this.labels
    if allow_different:
        keep_changed(this)
    elif not restart:
        refuse_changed(this)  # before config.json is written: it must stay that of the networks beside it
    named = [] if settings.groups.source == "auto" else named_groups(settings, labels)
    preflight.check(settings, this.train, this.val, named, this.folder, devices=len(this.devices) * this.job.count)
    write_json(this.folder / CONFIG_FILE, config.to_tree(settings))
    write_labels(this.folder / LABELS_FILE, labels)
    threads = int(os.environ["OMP_NUM_THREADS"])  # backend.py has set it
    rounding = {"cpu": cpu_model(), "threads": threads}  # with others sums round otherwise
    environment = {**versions(), "devices": list(map(str, this.devices)), **rounding}
    write_json(this.folder / ENVIRONMENT_FILE, {**environment, **job_record(this.job)})


def _run_stages(this: Run, profile: bool) -> Dict[str, Dict[str, float]]:
    """Returns the seconds of each stage's phases, if they are wanted."""
    measured: Dict[str, Dict[str, float]] = {}
    for stage in stages_of(this.config):
        with profiled(measured.setdefault(stage.name, {})) if profile else contextlib.nullcontext():
            run_stage(this, stage)
    return measured


def _tell(this: Run, measured: Dict[str, Dict[str, float]]) -> None:
    """Print the result and where the files are; the profile, if there is one, also becomes a file."""
    if measured:
        write_json(this.folder / PROFILE_FILE, measured)
        print(f"{profile_table(measured).plain()}\n")
    print(results.run_table(results.read(this.folder / RESULTS_FILE)))
    written = ("results.json", "table.txt", "classes.md", "confusion.png", "classes.png", "overlays.png")
    print(f"\nin {this.folder}: {', '.join(written)}")
    if this.data_source == "built-in":
        _log.warning(built_in_notice(this.config))


def resolve(
    config_path: Path, overrides: Sequence[str], data_root: Optional[str], overlay: Optional[Dict[str, Any]]
) -> Tuple[Path, config.Config, Optional[Path], str]:
    """The config that is run, its settings, the root of its data (None: built-in images) and where that came from.

    Without a data set, a config may name another one for built-in images.
    """
    settings = config.load(config_path, overrides, overlay)
    root, source = find_root(settings.data.name, data_root)
    if root is None and settings.without_data:
        config_path = config_path.parent / settings.without_data
        settings = config.load(config_path, overrides, overlay)
    return config_path, settings, root, source


def _warn_of_other_batches(settings: config.Config, path: Path) -> None:
    """One line where an override changed a batch size, and so what the file's learning rate was chosen for."""
    changed = []
    for stage in ("baseline", "subnets"):
        used, stated = getattr(settings, stage).batch_size, batch_size_of_file(path, stage)
        if used != stated:
            changed.append(f"{stage}.batch_size is {used}, in {path.name} {stated}")
    if changed:
        _log.warning(
            "%s, and the learning rate belongs to the file's; to save memory at the same batch, set images_per_pass",
            "; ".join(changed),
        )


def _open(settings: config.Config, root: Path) -> List[SegmentationDataset]:
    """Both splits, checked before any training starts."""
    splits = [open_training_split(settings.data, root), open_validation_split(settings.data, root)]
    for split in splits:
        if not split.has_labels:
            raise ConfsegError(f"{split.name}: the split {split.split!r} has no labels; choose another one")
        _log.info("%s %s: %d images", split.name, split.split, len(split))
    check_disjoint(*splits)
    return splits


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder; a second run in it is refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "w")
    except OSError as error:
        raise ConfsegError(f"cannot write to {folder}: {error.strerror}; choose another --output") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfsegError(f"another run is working in {folder}; wait for it, or choose another --output") from None
        except OSError as error:
            raise ConfsegError(f"cannot lock {folder}: {error.strerror}; choose another --output") from error
        for each in (folder, folder / "stages"):
            remove_unfinished(each)
        yield


@contextlib.contextmanager
def _logged(folder: Path, job: Job) -> Iterator[None]:
    """Messages go to the screen, and with the per-epoch details to run.log; those of another worker to its own log."""
    path = folder / ("run.log" if job.first else f"worker{job.rank}.log")
    launching.announce(f"worker {job.rank}", path)
    logger = logging.getLogger(__package__)
    file = _log_file(path)
    file.handleError = lambda record: None  # a full disk is reported by what needs it, not by every line of the log
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = [file]
    if job.first:
        handlers.append(BarHandler(logging.INFO))
    level = logger.level
    logger.setLevel(logging.DEBUG)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        if job.count > 1:
            _log.info("worker %d of %d: process %d on %s", job.rank, job.count, os.getpid(), platform.node())
        yield
    except Exception as error:
        if not job.first:  # what the first says is seen on the screen
            _log.error("%s", error, exc_info=not isinstance(error, ConfsegError))
        raise
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # a full disk, again
                handler.close()


def _log_file(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(path)
    except OSError as error:
        raise ConfsegError(f"cannot write to {path}: {error.strerror}; choose another --output") from error
