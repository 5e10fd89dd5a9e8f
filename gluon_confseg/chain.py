"""The chain of stages: runs what is missing, skips what is finished and unchanged, refuses to overwrite by accident."""

import logging
import time
from pathlib import Path
from typing import Any, Dict, Iterable, List, Tuple

from . import checkpoint, manifests
from .errors import ConfsegError
from .files import sha256, write_json
from .manifests import Origin
from .run import Run, manifest_path
from .stages import STAGES, Stage

_log = logging.getLogger(__name__)

_WHOLE = ""  # stands for all outputs of a stage that makes them together


def refuse_changed(this: Run) -> None:
    """Raise ConfsegError where a stage was finished or begun with other settings or images; more cells are welcome."""
    for stage in STAGES:
        if not all(manifest_path(this.folder, name).exists() for name in stage.upstream):
            continue
        now = _origins(this, stage, _made_from(this, stage))
        for verb, earlier in (("finished", _finished(this, stage)), ("begun", _begun(this, stage))):
            pairs = [(name, origin) for name, origin in earlier.items() if name in now]
            changed = [change for name, origin in pairs for change in manifests.differences(origin, now[name])]
            lost = [str(change) for change in changed if not change.harmless]
            if verb == "begun":  # its checkpoint is of all its heads
                lost += [f"no cell needs {name}" for name in earlier if name not in now]
            if lost:
                raise ConfsegError(
                    f"{this.folder}: stage {stage.name} was {verb} with other settings "
                    f"({'; '.join(dict.fromkeys(lost))}); choose another --output, or --restart to redo it and what "
                    "follows"
                )


def _origins(this: Run, stage: Stage, origin: Origin) -> Dict[str, Origin]:
    """What each file depends on, of a stage whose files are made one by one; of another one, what all depend on."""
    return {_WHOLE: origin} if stage.files is None else stage.files(this, origin)


def _finished(this: Run, stage: Stage) -> Dict[str, Origin]:
    """What the files that there are were made from, as `_origins` has it."""
    if stage.files is not None:
        return {name: record["made_from"] for name, record in _records(this, stage).items()}
    path = manifest_path(this.folder, stage.name)
    return {_WHOLE: manifests.read_made_from(path)} if path.exists() else {}


def _begun(this: Run, stage: Stage) -> Dict[str, Origin]:
    """What the stage's checkpoint is of, as `_origins` has it; without a checkpoint there is nothing to lose."""
    path = manifests.begun_path(this.folder, stage.name)
    if not path.exists() or not _checkpoints(this.folder, stage):
        return {}
    if stage.files is None:
        # the finished stage counts, where there is one: it is being redone
        finished = manifest_path(this.folder, stage.name).exists()
        return {} if finished else {_WHOLE: manifests.read_made_from(path)}
    files = manifests.read_begun_files(path)
    return files or stage.files(this, _older_origin(this, manifests.read_made_from(path)))


def _records(this: Run, stage: Stage) -> Dict[str, manifests.Record]:
    """By name, the files that were made one by one; those of a run that is older than such records count too."""
    path, manifest = manifests.records_path(this.folder, stage.name), manifest_path(this.folder, stage.name)
    if path.exists():
        return manifests.read_records(path)
    if not manifest.exists():
        return {}
    found = manifests.read(manifest)
    origins = stage.files(this, _older_origin(this, found["made_from"]))
    return manifests.records_of_manifest(found, origins)


def _older_origin(this: Run, origin: Origin) -> Origin:
    """Older runs state the first stage's settings in its manifest only."""
    return {**manifests.read_made_from(manifest_path(this.folder, "baseline")), **origin}


def run_stage(this: Run, stage: Stage) -> None:
    if stage.files is not None:
        _run_file_by_file(this, stage)
        return
    path = manifest_path(this.folder, stage.name)
    made_from = _made_from(this, stage)
    if path.exists():
        manifest = manifests.read(path)
        changed = _reasons(this, manifest["made_from"], made_from, manifest["outputs"])
        if not changed:
            _log.info("%s: finished before (%.0f s), skipped", stage.name, manifest["seconds"])
            return
        _log.warning("%s: done again, because of %s", stage.name, "; ".join(changed))
        _remove_checkpoints(this.folder, stage)
    begun = manifests.begun_path(this.folder, stage.name)
    changed = manifests.differences(manifests.read_made_from(begun), made_from) if begun.exists() else []
    if changed:
        _log.warning("%s: begun again, because of %s", stage.name, "; ".join(map(str, changed)))
        _remove_checkpoints(this.folder, stage)
    write_json(begun, {"made_from": made_from})
    outputs, seconds = _timed(this, stage)
    digests = {name: sha256(this.folder / name) for name in outputs}
    _finish(this, stage, {"made_from": made_from, "outputs": digests, "seconds": round(seconds, 2)})


def _run_file_by_file(this: Run, stage: Stage) -> None:
    """Make the files that are missing or changed, and keep the others; what was begun is finished first."""
    made_from = _made_from(this, stage)
    wanted, records = stage.files(this, made_from), _records(this, stage)
    lacking = _lacking(this, stage, wanted, records)
    path = manifest_path(this.folder, stage.name)
    if not lacking and path.exists() and manifests.read(path)["outputs"].keys() == wanted.keys():
        _log.info("%s: finished before (%.0f s), skipped", stage.name, manifests.read(path)["seconds"])
        return
    kept = [name for name in wanted if name not in lacking]
    if kept:
        _log.info("%s: kept as they are: %s", stage.name, ", ".join(kept))
        _log.info("%s: to be made: %s", stage.name, ", ".join(lacking) or "none")
    for names in _passes(this, stage, wanted, lacking):
        records = {name: record for name, record in records.items() if name not in names}
        write_json(manifests.records_path(this.folder, stage.name), records)
        write_json(manifests.begun_path(this.folder, stage.name), {"files": {name: wanted[name] for name in names}})
        _, seconds = _timed(this, stage, names)
        for name in names:
            records[name] = manifests.make_record(this.folder, name, wanted[name], seconds / len(names))
        write_json(manifests.records_path(this.folder, stage.name), records)
        _remove_checkpoints(this.folder, stage)
    digests = {name: records[name]["sha256"] for name in wanted}
    seconds = round(sum(records[name]["seconds"] for name in wanted), 2)
    _finish(this, stage, {"made_from": made_from, "outputs": digests, "seconds": seconds})


def _lacking(this: Run, stage: Stage, wanted: Dict[str, Origin], records: Dict[str, manifests.Record]) -> List[str]:
    """The files that are missing, or were made from something else; the log says from what."""
    there = [name for name in wanted if name in records]
    reasons = {name: _reasons(this, records[name]["made_from"], wanted[name], [name]) for name in there}
    redone = [name for name in there if reasons[name]]
    if redone:
        why = dict.fromkeys(reason for name in redone for reason in reasons[name])
        _log.warning("%s: done again, because of %s: %s", stage.name, "; ".join(why), ", ".join(redone))
    return [name for name in wanted if name not in there or name in redone]


def _passes(this: Run, stage: Stage, wanted: Dict[str, Origin], lacking: List[str]) -> List[List[str]]:
    """The files that are made together: first those of a checkpoint, in its order, then the others that are lacking."""
    begun = _begun(this, stage)
    if begun and all(name in wanted and origin == wanted[name] for name, origin in begun.items()):
        return [names for names in ([*begun], [name for name in lacking if name not in begun]) if names]
    if begun:
        _log.warning("%s: begun again, because the files that were begun are no longer wanted as they were", stage.name)
    _remove_checkpoints(this.folder, stage)
    return [lacking] if lacking else []


def _timed(this: Run, stage: Stage, *names: List[str]) -> Tuple[List[str], float]:
    """Do the stage's work; returns its outputs and its seconds, those before an interruption included."""
    started = time.monotonic()
    earlier = checkpoint.read_meta(this.folder / f"{stage.name}.checkpoint.npz").get("seconds", 0.0)
    outputs = stage.work(this, *names)
    return outputs, earlier + time.monotonic() - started


def _finish(this: Run, stage: Stage, manifest: Dict[str, Any]) -> None:
    write_json(manifest_path(this.folder, stage.name), manifest)
    begun = manifests.begun_path(this.folder, stage.name)
    if begun.exists():
        begun.unlink()
    _log.info("%s: finished in %.0f s", stage.name, manifest["seconds"])


def _reasons(this: Run, old: Origin, new: Origin, outputs: Iterable[str]) -> List[str]:
    """Why outputs that there were must be made again."""
    return [*map(str, manifests.differences(old, new)), *manifests.missing(this.folder, outputs)]


def _checkpoints(folder: Path, stage: Stage) -> List[Path]:
    return list(folder.glob(f"*{stage.name}.checkpoint.npz"))


def _remove_checkpoints(folder: Path, stage: Stage) -> None:
    for stale in _checkpoints(folder, stage):
        stale.unlink()


def _made_from(this: Run, stage: Stage) -> Origin:
    """What the stage's outputs depend on: settings, images, and what the stages before it wrote."""
    found = {}
    for key, value in stage.settings(this.config).items():
        found.update(manifests.flat(key, value))
    for split in stage.data:
        found[f"images of {split}"] = getattr(this, split).fingerprint()
    for upstream in stage.upstream:
        for name, digest in manifests.read(manifest_path(this.folder, upstream))["outputs"].items():
            found[f"file {name}"] = digest
    return found
