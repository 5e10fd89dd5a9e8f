"""The chain of stages: runs what is missing, skips what is finished and unchanged, refuses to overwrite by accident."""

import contextlib
import fcntl
import logging
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from . import __version__, checkpoint, config, results
from .backend import devices, versions
from .data import check_disjoint, find_root, open_dataset
from .data.base import SegmentationDataset
from .data.built_in import built_in_notice, built_in_root
from .errors import ConfsegError
from .files import read_json, sha256, write_json
from .mixed_precision import half_type
from .profiling import profiled
from .profiling import table as profile_table
from .progress import BarHandler
from .run import CONFIG_FILE, LABELS_FILE, PROFILE_FILE, RESULTS_FILE, Run, manifest_path, write_labels
from .stages import STAGES, Stage, named_groups

_log = logging.getLogger(__name__)


def run(
    config_path: Path,
    *,
    overrides: Sequence[str] = (),
    data_root: Optional[str] = None,
    output: Optional[str] = None,
    restart: bool = False,
    profile: bool = False,
    overlay: Optional[Dict[str, Any]] = None,
) -> Path:
    """Run the whole chain of a config; returns the run's folder. Raises ConfsegError for the user's mistakes.

    `overlay` : a tree of settings laid over the config's, as a study has it
    `profile` : measure where the time of the stages that are not finished goes (see profiling.py)
    """
    settings = config.load(config_path, overrides, overlay)
    root, source = find_root(settings.data.name, data_root)
    if root is None and settings.without_data:
        config_path = config_path.parent / settings.without_data
        settings = config.load(config_path, overrides, overlay)
    folder = Path(output) if output else Path("runs") / f"{settings.name}-seed{settings.seed}"
    contexts = devices(settings.devices)
    if settings.amp:
        half_type(contexts)  # refuses devices that cannot, before anything is written
    with _locked(folder), _logged(folder):
        _log.info("%s: results go to %s; devices: %s", settings.name, folder, ", ".join(map(str, contexts)))
        _warn_of_other_batches(settings, config_path)
        if root is None:
            _log.warning(built_in_notice(settings))
            root = built_in_root(settings)
        train, val = _open(settings, root)
        this = Run(settings, folder, train.labels, contexts, train, val, source)
        if not restart:
            _refuse_changed(this)  # before config.json is written: it must stay that of the networks beside it
        write_json(folder / CONFIG_FILE, config.to_tree(settings))
        write_labels(folder / LABELS_FILE, train.labels)
        write_json(
            folder / "environment.json",
            {"gluon_confseg": __version__, **versions(), "devices": list(map(str, contexts))},
        )
        measured: Dict[str, Dict[str, float]] = {}
        for stage in STAGES:
            with profiled(measured.setdefault(stage.name, {})) if profile else contextlib.nullcontext():
                _run_stage(this, stage)
        if profile:
            write_json(folder / PROFILE_FILE, measured)
            print(f"{profile_table(measured).plain()}\n")
        print(results.run_table(results.read(folder / RESULTS_FILE)))
        written = ("results.json", "table.txt", "classes.md", "confusion.png", "classes.png", "overlays.png")
        print(f"\nin {folder}: {', '.join(written)}")
        if source == "built-in":
            _log.warning(built_in_notice(settings))
    return folder


def _warn_of_other_batches(settings: config.Config, path: Path) -> None:
    """One line where an override changed a batch size, and so what the file's learning rate was chosen for."""
    changed = []
    for stage in ("baseline", "subnets"):
        used, stated = getattr(settings, stage).batch_size, config.batch_size_of_file(path, stage)
        if used != stated:
            changed.append(f"{stage}.batch_size is {used}, in {path.name} {stated}")
    if changed:
        _log.warning(
            "%s, and the learning rate belongs to the file's; to save memory at the same batch, set images_per_pass",
            "; ".join(changed),
        )


def _open(settings: config.Config, root: Path) -> List[SegmentationDataset]:
    """Both splits, checked before any training starts."""
    splits = [
        open_dataset(settings.data.name, root, split) for split in (settings.data.train_split, settings.data.val_split)
    ]
    for split in splits:
        if not split.has_labels:
            raise ConfsegError(f"{split.name}: the split {split.split!r} has no labels; choose another one")
        _log.info("%s %s: %d images", split.name, split.split, len(split))
    check_disjoint(*splits)
    if settings.groups.source != "auto":
        named_groups(settings, splits[0].labels)
    return splits


def _refuse_changed(this: Run) -> None:
    """Raise ConfsegError where a stage was finished or begun with other settings or images."""
    for stage in STAGES:
        finished, begun = manifest_path(this.folder, stage.name), _begun_path(this.folder, stage)
        found = finished if finished.exists() else begun
        if found == begun and not _checkpoints(this.folder, stage):
            continue  # nothing to lose: a slip in the config that ended the first start may be mended
        if not all(path.exists() for path in (found, *(manifest_path(this.folder, name) for name in stage.upstream))):
            continue
        changed = _differences(read_json(found)["made_from"], _made_from(this, stage))
        if not _follows_from_upstream(changed):
            raise ConfsegError(
                f"{this.folder}: stage {stage.name} was {'finished' if found == finished else 'begun'} with other "
                f"settings ({'; '.join(changed)}); choose another --output, or --restart to redo it and what follows"
            )


def _begun_path(folder: Path, stage: Stage) -> Path:
    """Where a stage that is not finished says what it is being made from: its checkpoint belongs to that."""
    return folder / "stages" / f"{stage.name}.begun.json"


def _run_stage(this: Run, stage: Stage) -> None:
    path = manifest_path(this.folder, stage.name)
    made_from = _made_from(this, stage)
    if path.exists():
        manifest = read_json(path)
        changed = _differences(manifest["made_from"], made_from) + _missing(this.folder, manifest["outputs"])
        if not changed:
            _log.info("%s: finished before (%.0f s), skipped", stage.name, manifest["seconds"])
            return
        _log.warning("%s: done again, because of %s", stage.name, "; ".join(changed))
        _remove_checkpoints(this.folder, stage)
    begun = _begun_path(this.folder, stage)
    changed = _differences(read_json(begun)["made_from"], made_from) if begun.exists() else []
    if changed:
        _log.warning("%s: begun again, because of %s", stage.name, "; ".join(changed))
        _remove_checkpoints(this.folder, stage)
    write_json(begun, {"made_from": made_from})
    started = time.monotonic()
    earlier = checkpoint.read_meta(this.folder / f"{stage.name}.checkpoint.npz").get("seconds", 0.0)
    outputs = stage.work(this)
    manifest = {
        "made_from": made_from,
        "outputs": {name: sha256(this.folder / name) for name in outputs},
        "seconds": round(earlier + time.monotonic() - started, 2),
    }
    write_json(path, manifest)
    begun.unlink()
    _log.info("%s: finished in %.0f s", stage.name, manifest["seconds"])


def _checkpoints(folder: Path, stage: Stage) -> List[Path]:
    return list(folder.glob(f"*{stage.name}.checkpoint.npz"))


def _remove_checkpoints(folder: Path, stage: Stage) -> None:
    for stale in _checkpoints(folder, stage):
        stale.unlink()


def _made_from(this: Run, stage: Stage) -> Dict[str, Any]:
    """What the stage's outputs depend on: settings, images, and what the stages before it wrote."""
    found = {}
    for key, value in stage.settings(this.config).items():
        found.update(_flat(key, value))
    for split in stage.data:
        found[f"images of {split}"] = getattr(this, split).fingerprint()
    for upstream in stage.upstream:
        for name, digest in read_json(manifest_path(this.folder, upstream))["outputs"].items():
            found[f"file {name}"] = digest
    return found


def _flat(key: str, value: Any) -> Dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in _flat(f"{key}.{name}", inner).items()}
    return {key: value}


def _differences(old: Dict[str, Any], new: Dict[str, Any]) -> List[str]:
    keys = sorted({*old, *new})
    return [f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}" for key in keys if old.get(key) != new.get(key)]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:24]}..."


def _missing(folder: Path, outputs: Dict[str, str]) -> List[str]:
    return [f"missing {name}" for name in outputs if not (folder / name).exists()]


def _follows_from_upstream(changed: List[str]) -> bool:
    """Whether only files changed: redoing them loses nothing that the user decided."""
    return all(change.startswith(("file ", "missing ")) for change in changed)


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
        except OSError:
            raise ConfsegError(f"another run is working in {folder}; wait for it, or choose another --output") from None
        yield


@contextlib.contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Messages go to the screen, and with the per-epoch details to run.log."""
    logger = logging.getLogger(__package__)
    screen, file = BarHandler(), logging.FileHandler(folder / "run.log")
    file.handleError = lambda record: None  # a full disk is reported by what needs it, not by every line of the log
    screen.setLevel(logging.INFO)
    screen.setFormatter(logging.Formatter("%(message)s"))
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(screen)
    logger.addHandler(file)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in (screen, file):
            logger.removeHandler(handler)
            handler.close()
