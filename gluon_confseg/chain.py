"""The chain of stages: runs what is missing, skips what is finished and unchanged, refuses to overwrite by accident."""

import logging
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from . import checkpoint, manifests
from .backend import versions
from .errors import ConfsegError
from .files import explained, sha256, write_json
from .manifests import Origin
from .run import Run, checkpoint_path, manifest_path
from .sharing import await_files
from .stages import Stage, stages_of

_log = logging.getLogger(__name__)

_WHOLE = ""  # stands for all outputs of a stage that makes them together


def refuse_changed(this: Run) -> None:
    """Raise ConfsegError where a stage was finished or begun with other settings, images or versions.

    So too where its files are not those that it wrote. More cells are welcome.
    """
    for stage in stages_of(this.config):
        for verb, lost in _lost(this, stage).items():
            if lost:
                raise ConfsegError(
                    f"{this.folder}: stage {stage.name} was {verb} with other settings, data or versions "
                    f"({'; '.join(lost)}); choose another --output, --restart to redo it and what follows, or "
                    "--allow-different to keep what was trained and have the differences noted in the results"
                )


def keep_changed(this: Run) -> None:
    """Take what was trained, counted and grouped as made from what is there now, and note the differences."""
    for stage in stages_of(this.config):
        for verb, lost in _lost(this, stage).items():
            if lost and stage.name not in ("evaluate", "report"):  # made again, so that the results fit the cells
                _log.warning("%s: %s before, and kept in spite of %s", stage.name, verb, "; ".join(lost))
                _accept(this, stage, verb, lost)


def _lost(this: Run, stage: Stage) -> Dict[str, List[str]]:
    """What the user would lose by redoing a stage that was finished or begun: the reasons for redoing it."""
    if not all(manifest_path(this.folder, name).exists() for name in stage.upstream):
        return {}
    now, records, begun = _origins(this, stage, _made_from(this, stage)), _records(this, stage), _begun(this, stage)
    finished = _changes_of_mind({name: record["made_from"] for name, record in records.items()}, now)
    for name in (name for name in records if name in now):
        finished += manifests.damaged(this.folder, _outputs(name, records[name]))
    continued = _changes_of_mind(begun, now)
    if begun:  # its checkpoint is of all its heads
        continued += [f"no cell needs {name}" for name in begun if name not in now]
        continued += _other_versions(this, stage)
    return {"finished": list(dict.fromkeys(finished)), "begun": list(dict.fromkeys(continued))}


def _changes_of_mind(earlier: Dict[str, Origin], now: Dict[str, Origin]) -> List[str]:
    """What differs, of what is still wanted, because the user decided it."""
    pairs = [(origin, now[name]) for name, origin in earlier.items() if name in now]
    changes = [change for old, new in pairs for change in manifests.differences(old, new)]
    return [str(change) for change in changes if not change.harmless]


def _other_versions(this: Run, stage: Stage) -> List[str]:
    """Of a stage that was begun, the versions that are not those of now."""
    return manifests.other_versions(manifests.read_begun(manifests.begun_path(this.folder, stage.name)), versions())


def _outputs(name: str, record: manifests.Record) -> Dict[str, str]:
    """The digests of the files that a record is of."""
    return record["outputs"] if name == _WHOLE else {name: record["sha256"]}


def _accept(this: Run, stage: Stage, verb: str, lost: List[str]) -> None:
    now = _origins(this, stage, _made_from(this, stage))
    path, tree = (_accepted_begun if verb == "begun" else _accepted)(this, stage, now)
    write_json(path, {**tree, "in_spite_of": [*tree.get("in_spite_of", []), *lost]})
    last = stages_of(this.config)[-1]
    _unlink(manifest_path(this.folder, last.name))  # made again: the results name what was accepted


def _accepted_begun(this: Run, stage: Stage, now: Dict[str, Origin]) -> Tuple[Path, Dict[str, Any]]:
    """Where a stage says what it has begun, and what it says once its checkpoint is taken as made from `now`."""
    path = manifests.begun_path(this.folder, stage.name)
    tree = {**manifests.read_begun(path), "versions": versions()}
    origins = {name: manifests.kept(old, now.get(name, old)) for name, old in _begun(this, stage).items()}
    return path, {**tree, **({"made_from": origins[_WHOLE]} if stage.files is None else {"files": origins})}


def _accepted(this: Run, stage: Stage, now: Dict[str, Origin]) -> Tuple[Path, Dict[str, Any]]:
    """A stage's manifest and what it says once the files are taken as made from `now`, as their records then say.

    A stage that has files, but not yet all, has no manifest: then it is what it has begun.
    """
    records = _records(this, stage)
    for name in (name for name in records if name in now):
        digests = _present(this, _outputs(name, records[name]))
        own = {"outputs": digests} if name == _WHOLE else {"sha256": digests[name]}
        records[name] = {**records[name], "made_from": manifests.kept(records[name]["made_from"], now[name]), **own}
    path = manifest_path(this.folder, stage.name)
    if stage.files is None:
        return path, records[_WHOLE]
    write_json(manifests.records_path(this.folder, stage.name), records)
    if path.exists():
        return path, manifests.read(path)
    begun = manifests.begun_path(this.folder, stage.name)
    return begun, manifests.read_begun(begun) if begun.exists() else {"files": {}, "versions": versions()}


def _present(this: Run, digests: Dict[str, str]) -> Dict[str, str]:
    """With the digests of the files as they are."""
    paths = {name: this.folder / name for name in digests}
    return {name: sha256(path) if path.exists() else digests[name] for name, path in paths.items()}


def _origins(this: Run, stage: Stage, origin: Origin) -> Dict[str, Origin]:
    """What each file depends on, of a stage whose files are made one by one; of another one, what all depend on."""
    return {_WHOLE: origin} if stage.files is None else stage.files(this, origin)


def _begun(this: Run, stage: Stage) -> Dict[str, Origin]:
    """What the stage's checkpoint is of, as `_origins` has it; without a checkpoint there is nothing to lose."""
    path = manifests.begun_path(this.folder, stage.name)
    if not path.exists() or not _checkpoints(this.folder, stage):
        return {}
    if stage.files is None:
        # the finished stage counts, where there is one: it is being redone
        finished = manifest_path(this.folder, stage.name).exists()
        return {} if finished else {_WHOLE: manifests.read_made_from(path)}
    begun = manifests.read_begun(path)
    if "files" in begun:
        return begun["files"]
    return stage.files(this, _older_origin(this, manifests.read_made_from(path)))


def _records(this: Run, stage: Stage) -> Dict[str, manifests.Record]:
    """By name, the files that were made one by one; those of a run that is older than such records count too.

    Of another stage its manifest, which is of all its files.
    """
    path, manifest = manifests.records_path(this.folder, stage.name), manifest_path(this.folder, stage.name)
    if stage.files is not None and path.exists():
        return manifests.read_records(path)
    if not manifest.exists():
        return {}
    found = manifests.read(manifest)
    if stage.files is None:
        return {_WHOLE: found}
    origins = stage.files(this, _older_origin(this, found["made_from"]))
    return manifests.records_of_manifest(found, origins)


def _older_origin(this: Run, origin: Origin) -> Origin:
    """Older runs state the first stage's settings in its manifest only."""
    return {**manifests.read_made_from(manifest_path(this.folder, "baseline")), **origin}


def run_stage(this: Run, stage: Stage) -> None:
    if stage.files is not None:
        _run_file_by_file(this, stage)
        return
    made_from = _begin(this, stage) if this.job.first else None
    if not this.job.tell(made_from is not None):
        return
    outputs, seconds = _timed(this, stage)
    if this.job.first:
        digests = {name: sha256(this.folder / name) for name in outputs}
        accepted = _in_spite_of(manifests.read_begun(manifests.begun_path(this.folder, stage.name)))
        _finish(this, stage, {"made_from": made_from, "outputs": digests, "seconds": round(seconds, 2), **accepted})
    await_files(this, outputs)


def _begin(this: Run, stage: Stage) -> Optional[Origin]:
    """Note, and return, what a stage is being made from; None where it is finished."""
    path = manifest_path(this.folder, stage.name)
    made_from = _made_from(this, stage)
    if path.exists():
        manifest = manifests.read(path)
        changed = _reasons(this, manifest["made_from"], made_from, manifest["outputs"])
        if not changed:
            _clean(this, stage)
            _log.info("%s: finished before (%.0f s), skipped", stage.name, manifest["seconds"])
            return None
        _log.warning("%s: done again, because of %s", stage.name, "; ".join(changed))
        if manifest["made_from"] != made_from:  # else its last checkpoint gives the files back
            _remove_checkpoints(this.folder, stage)
    begun = manifests.begun_path(this.folder, stage.name)
    earlier = {"made_from": made_from}
    if begun.exists():
        earlier = {**manifests.read_begun(begun), "made_from": manifests.read_made_from(begun)}
    changed = list(map(str, manifests.differences(earlier["made_from"], made_from)))
    if not path.exists():
        changed += manifests.other_versions(earlier, versions())
    if changed:
        _log.warning("%s: begun again, because of %s", stage.name, "; ".join(changed))
        _remove_checkpoints(this.folder, stage)
        earlier = {}
    # first the one, then the other: a checkpoint is never without the word of what it was made from
    write_json(begun, {"made_from": made_from, "versions": versions(), **_in_spite_of(earlier)})
    _unlink(path)
    return made_from


def _run_file_by_file(this: Run, stage: Stage) -> None:
    """Make the files that are missing or changed, and keep the others; worker 0 tells the others which."""
    if not this.job.first:
        for names in this.job.tell(None):
            this.job.barrier()
            _timed(this, stage, names)
            await_files(this, names)
        return
    made_from = _made_from(this, stage)
    wanted, records = stage.files(this, made_from), _records(this, stage)
    path = manifest_path(this.folder, stage.name)
    begun = manifests.begun_path(this.folder, stage.name)
    accepted = _in_spite_of(manifests.read(path)) if path.exists() else {}
    accepted.update(_in_spite_of(manifests.read_begun(begun)) if begun.exists() else {})
    passes = _planned(this, stage, wanted, records)
    this.job.tell(passes or [])
    if passes is None:
        _clean(this, stage)
        _log.info("%s: finished before (%.0f s), skipped", stage.name, manifests.read(path)["seconds"])
        return
    for names in passes:
        records = {name: record for name, record in records.items() if name not in names}
        write_json(manifests.records_path(this.folder, stage.name), records)
        files = {name: wanted[name] for name in names}
        write_json(begun, {"files": files, "versions": versions(), **accepted})
        this.job.barrier()  # now the checkpoints that there are belong to these files
        _, seconds = _timed(this, stage, names)
        for name in names:
            records[name] = manifests.make_record(this.folder, name, wanted[name], seconds / len(names))
        write_json(manifests.records_path(this.folder, stage.name), records)
        _remove_checkpoints(this.folder, stage)
        await_files(this, names)
    digests = {name: records[name]["sha256"] for name in wanted}
    seconds = round(sum(records[name]["seconds"] for name in wanted), 2)
    _finish(this, stage, {"made_from": made_from, "outputs": digests, "seconds": seconds, **accepted})


def _in_spite_of(tree: Dict[str, Any]) -> Dict[str, List[str]]:
    return {"in_spite_of": tree["in_spite_of"]} if "in_spite_of" in tree else {}


def _planned(
    this: Run, stage: Stage, wanted: Dict[str, Origin], records: Dict[str, manifests.Record]
) -> Optional[List[List[str]]]:
    """The files that are made together, what was begun first; None where the stage is finished."""
    lacking = _lacking(this, stage, wanted, records)
    path = manifest_path(this.folder, stage.name)
    if not lacking and path.exists() and manifests.read(path)["outputs"].keys() == wanted.keys():
        return None
    kept = [name for name in wanted if name not in lacking]
    if kept:
        _log.info("%s: kept as they are: %s", stage.name, ", ".join(kept))
        _log.info("%s: to be made: %s", stage.name, ", ".join(lacking) or "none")
    return _passes(this, stage, wanted, lacking)


def _lacking(this: Run, stage: Stage, wanted: Dict[str, Origin], records: Dict[str, manifests.Record]) -> List[str]:
    """The files that are missing, or were made from something else; the log says from what."""
    there = [name for name in wanted if name in records]
    reasons = {
        name: _reasons(this, records[name]["made_from"], wanted[name], _outputs(name, records[name])) for name in there
    }
    redone = [name for name in there if reasons[name]]
    if redone:
        why = dict.fromkeys(reason for name in redone for reason in reasons[name])
        _log.warning("%s: done again, because of %s: %s", stage.name, "; ".join(why), ", ".join(redone))
    return [name for name in wanted if name not in there or name in redone]


def _passes(this: Run, stage: Stage, wanted: Dict[str, Origin], lacking: List[str]) -> List[List[str]]:
    """The files that are made together: first those of a checkpoint, in its order, then the others that are lacking."""
    begun = _begun(this, stage)
    other = _other_versions(this, stage) if begun else []
    if begun and not other and all(name in wanted and origin == wanted[name] for name, origin in begun.items()):
        return [names for names in ([*begun], [name for name in lacking if name not in begun]) if names]
    if begun:
        _log.warning("%s: begun again, because the files that were begun are no longer wanted as they were", stage.name)
    _remove_checkpoints(this.folder, stage)
    return [lacking] if lacking else []


def _timed(this: Run, stage: Stage, *names: List[str]) -> Tuple[List[str], float]:
    """Do the stage's work; returns its outputs and its seconds, those before an interruption included."""
    started = time.monotonic()
    earlier = checkpoint.newest_meta(checkpoint_path(this.folder, stage.name)).get("seconds", 0.0)
    outputs = stage.work(this, *names) if this.job.first or stage.shared else []
    return outputs, earlier + time.monotonic() - started


def _finish(this: Run, stage: Stage, manifest: Dict[str, Any]) -> None:
    write_json(manifest_path(this.folder, stage.name), {**manifest, "versions": versions()})
    _clean(this, stage)
    _log.info("%s: finished in %.0f s", stage.name, manifest["seconds"])


def _clean(this: Run, stage: Stage) -> None:
    """Remove what only an unfinished stage needs; the last checkpoint of one that makes its files together stays."""
    _unlink(manifests.begun_path(this.folder, stage.name))
    for path in _checkpoints(this.folder, stage):
        if stage.files is not None or path != checkpoint_path(this.folder, stage.name):
            _unlink(path)


def _unlink(path: Path) -> None:
    with explained(path):
        path.unlink(missing_ok=True)


def _reasons(this: Run, old: Origin, new: Origin, outputs: Dict[str, str]) -> List[str]:
    """Why outputs that there were must be made again."""
    changed = [*manifests.missing(this.folder, outputs), *manifests.damaged(this.folder, outputs)]
    return [*map(str, manifests.differences(old, new)), *changed]


def _checkpoints(folder: Path, stage: Stage) -> List[Path]:
    """Checkpoints and counts of a stage that is not finished."""
    partial = sorted(folder.glob(f"{stage.name}-*.partial.npz"))
    return [*checkpoint.newest_first(checkpoint_path(folder, stage.name)), *partial]


def _remove_checkpoints(folder: Path, stage: Stage) -> None:
    for stale in _checkpoints(folder, stage):
        _unlink(stale)


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
