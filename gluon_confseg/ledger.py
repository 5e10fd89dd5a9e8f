"""The ledger of a stage: what of it is made or begun, and from what, as the files in the run's folder say.

A stage has parts; a part is what is made again as one. There are two kinds of stages: those that make all their files
together, as one part, and those whose files are made one by one, each of them a part. `manifests` has the files' form.
"""

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from . import checkpoint, manifests
from .backend import versions
from .files import explained, sha256, write_json
from .manifests import Origin
from .run import Run, checkpoint_path, manifest_path
from .stages import Stage

_log = logging.getLogger(__name__)


class Made(NamedTuple):
    """A part that was made: from what, and the digests of its files."""

    made_from: Origin
    outputs: Dict[str, str]


class Ledger(ABC):
    """What the first worker reads before a stage and writes as it goes on; the stages upstream are finished.

    `wanted` : by part, what it is to be made from now
    """

    def __init__(self, this: Run, stage: Stage):
        self.name = stage.name
        self._run, self._folder, self._stage = this, this.folder, stage
        self._manifest = manifest_path(this.folder, stage.name)
        self._begun = manifests.begun_path(this.folder, stage.name)
        self._made_from = _made_from(this, stage)
        self._accepted: Dict[str, List[str]] = {}  # what of `in_spite_of` stays with what is made
        self.wanted = self._parts(self._made_from)

    @abstractmethod
    def made(self) -> Dict[str, Made]:
        """The parts that were made; what has become of their files is another question."""

    @abstractmethod
    def begun(self) -> Dict[str, Origin]:
        """The parts that a checkpoint is of, and what they were made from; empty where there is nothing to lose."""

    @abstractmethod
    def plan(self) -> Optional[List[List[str]]]:
        """The parts to be made, those of a pass together; None where the stage is finished.

        The log says why, and checkpoints that are not to be continued are removed.
        """

    @abstractmethod
    def begin(self, parts: List[str]) -> None:
        """Note what a pass makes, and from what."""

    @abstractmethod
    def record(self, parts: List[str], outputs: List[str], seconds: float) -> None:
        """Note that a pass made its parts, which are the files `outputs`."""

    def close(self) -> None:
        """All parts are made: the stage is finished."""
        self._clean()
        _log.info("%s: finished in %.0f s", self.name, manifests.read(self._manifest)["seconds"])

    def skip(self) -> None:
        """There was nothing to do."""
        self._clean()
        _log.info("%s: finished before (%.0f s), skipped", self.name, manifests.read(self._manifest)["seconds"])

    @abstractmethod
    def accept_made(self, differences: List[str]) -> None:
        """Take the parts that were made as made from what is wanted, and their files as they are."""

    def accept_begun(self, differences: List[str]) -> None:
        """Take the checkpoint as one of what is wanted."""
        origins = {name: manifests.kept(old, self.wanted.get(name, old)) for name, old in self.begun().items()}
        tree = {**manifests.read_begun(self._begun), "versions": versions(), **self._form(origins)}
        _note(self._begun, tree, differences)

    def other_versions(self) -> List[str]:
        """Of a stage that was begun, the versions that are not those of now."""
        return manifests.other_versions(manifests.read_begun(self._begun), versions())

    @abstractmethod
    def _parts(self, origin: Origin) -> Dict[str, Origin]:
        """The parts of a stage that depends on `origin`, and what each depends on."""

    @abstractmethod
    def _form(self, origins: Dict[str, Origin]) -> Dict[str, Any]:
        """How the file of what is begun has them."""

    def _write_begun(self, parts: List[str]) -> None:
        origins = self._form({name: self.wanted[name] for name in parts})
        write_json(self._begun, {**origins, "versions": versions(), **self._accepted})

    def _write_manifest(self, outputs: Dict[str, str], seconds: float) -> None:
        tree = {"made_from": self._made_from, "outputs": outputs, "seconds": round(seconds, 2), **self._accepted}
        write_json(self._manifest, {**tree, "versions": versions()})

    def _reasons(self, part: str, made: Made) -> List[str]:
        """Why it must be made again."""
        changed = manifests.differences(made.made_from, self.wanted[part])
        lost = [*manifests.missing(self._folder, made.outputs), *manifests.damaged(self._folder, made.outputs)]
        return [*map(str, changed), *lost]

    def _present(self, outputs: Dict[str, str]) -> Dict[str, str]:
        """With the digests of the files as they are."""
        paths = {name: self._folder / name for name in outputs}
        return {name: sha256(path) if path.exists() else outputs[name] for name, path in paths.items()}

    def _checkpoints(self) -> List[Path]:
        """Checkpoints and counts of a stage that is not finished."""
        partial = sorted(self._folder.glob(f"{self.name}-*.partial.npz"))
        return [*checkpoint.newest_first(checkpoint_path(self._folder, self.name)), *partial]

    def _remove_checkpoints(self) -> None:
        for stale in self._checkpoints():
            unlink(stale)

    def _clean(self) -> None:
        """Remove what only an unfinished stage needs."""
        unlink(self._begun)
        self._remove_checkpoints()


class _Together(Ledger):
    """Of a stage that makes its files together: the one part has the stage's name, and the manifest is its record."""

    def made(self) -> Dict[str, Made]:
        if not self._manifest.exists():
            return {}
        found = manifests.read(self._manifest)
        return {self.name: Made(found["made_from"], found["outputs"])}

    def begun(self) -> Dict[str, Origin]:
        # the finished stage counts, where there is one: it is being redone
        if self._manifest.exists() or not self._begun.exists() or not self._checkpoints():
            return {}
        return {self.name: manifests.read_made_from(self._begun)}

    def plan(self) -> Optional[List[List[str]]]:
        finished = self.made().get(self.name)
        if finished is not None:
            changed = self._reasons(self.name, finished)
            if not changed:
                return None
            _log.warning("%s: done again, because of %s", self.name, "; ".join(changed))
            if finished.made_from != self._made_from:
                self._remove_checkpoints()
            elif self._checkpoints():  # the last one gives the files back, and what was accepted still holds for them
                self._accepted = _in_spite_of(manifests.read(self._manifest))
        if self._begun.exists():
            changed = list(map(str, manifests.differences(manifests.read_made_from(self._begun), self._made_from)))
            if finished is None:
                changed += self.other_versions()
            if changed:
                _log.warning("%s: begun again, because of %s", self.name, "; ".join(changed))
                self._remove_checkpoints()
                self._accepted = {}
            else:
                self._accepted.update(_in_spite_of(manifests.read_begun(self._begun)))
        return [[self.name]]

    def begin(self, parts: List[str]) -> None:
        # first the one, then the other: a checkpoint is never without the word of what it was made from
        self._write_begun(parts)
        unlink(self._manifest)

    def record(self, parts: List[str], outputs: List[str], seconds: float) -> None:
        self._write_manifest({name: sha256(self._folder / name) for name in outputs}, seconds)

    def accept_made(self, differences: List[str]) -> None:
        tree = manifests.read(self._manifest)
        origin = manifests.kept(tree["made_from"], self._made_from)
        _note(self._manifest, {**tree, "made_from": origin, "outputs": self._present(tree["outputs"])}, differences)

    def _parts(self, origin: Origin) -> Dict[str, Origin]:
        return {self.name: origin}

    def _form(self, origins: Dict[str, Origin]) -> Dict[str, Any]:
        return {"made_from": origins[self.name]}

    def _clean(self) -> None:
        """The last checkpoint stays: it gives lost files back."""
        unlink(self._begun)
        for path in self._checkpoints():
            if path != checkpoint_path(self._folder, self.name):
                unlink(path)


class _OneByOne(Ledger):
    """Of a stage whose files are made one by one: each is a part, with a record of its own."""

    def __init__(self, this: Run, stage: Stage):
        super().__init__(this, stage)
        self._path = manifests.records_path(this.folder, stage.name)
        self._records = self._read_records()

    def _read_records(self) -> Dict[str, manifests.Record]:
        """By name; of a run that is older than records, the files of its manifest count too."""
        if self._path.exists():
            return manifests.read_records(self._path)
        if not self._manifest.exists():
            return {}
        found = manifests.read(self._manifest)
        return manifests.records_of_manifest(found, self._older_parts(found["made_from"]))

    def made(self) -> Dict[str, Made]:
        return {name: Made(each["made_from"], {name: each["sha256"]}) for name, each in self._records.items()}

    def begun(self) -> Dict[str, Origin]:
        if not self._begun.exists() or not self._checkpoints():
            return {}
        found = manifests.read_begun(self._begun)
        return found["files"] if "files" in found else self._older_parts(manifests.read_made_from(self._begun))

    def plan(self) -> Optional[List[List[str]]]:
        if self._manifest.exists():
            self._accepted.update(_in_spite_of(manifests.read(self._manifest)))
        if self._begun.exists():
            self._accepted.update(_in_spite_of(manifests.read_begun(self._begun)))
        lacking = self._lacking()
        complete = self._manifest.exists() and manifests.read(self._manifest)["outputs"].keys() == self.wanted.keys()
        if complete and not lacking:
            return None
        kept = [name for name in self.wanted if name not in lacking]
        if kept:
            _log.info("%s: kept as they are: %s", self.name, ", ".join(kept))
            _log.info("%s: to be made: %s", self.name, ", ".join(lacking) or "none")
        return self._passes(lacking)

    def _lacking(self) -> List[str]:
        """The files that are missing, or were made from something else; the log says from what."""
        made = self.made()
        reasons = {name: self._reasons(name, made[name]) for name in self.wanted if name in made}
        redone = [name for name in reasons if reasons[name]]
        if redone:
            why = dict.fromkeys(reason for name in redone for reason in reasons[name])
            _log.warning("%s: done again, because of %s: %s", self.name, "; ".join(why), ", ".join(redone))
        return [name for name in self.wanted if name not in made or name in redone]

    def _passes(self, lacking: List[str]) -> List[List[str]]:
        """First the files of a checkpoint, in its order, then the others that are lacking."""
        begun = self.begun()
        as_wanted = all(self.wanted.get(name) == origin for name, origin in begun.items())
        if begun and as_wanted and not self.other_versions():
            return [names for names in ([*begun], [name for name in lacking if name not in begun]) if names]
        if begun:
            why = "because the files that were begun are no longer wanted as they were"
            _log.warning("%s: begun again, %s", self.name, why)
        self._remove_checkpoints()
        return [lacking] if lacking else []

    def begin(self, parts: List[str]) -> None:
        self._records = {name: record for name, record in self._records.items() if name not in parts}
        write_json(self._path, self._records)
        self._write_begun(parts)

    def record(self, parts: List[str], outputs: List[str], seconds: float) -> None:
        for name in parts:
            self._records[name] = manifests.make_record(self._folder, name, self.wanted[name], seconds / len(parts))
        write_json(self._path, self._records)
        self._remove_checkpoints()

    def close(self) -> None:
        digests = {name: self._records[name]["sha256"] for name in self.wanted}
        self._write_manifest(digests, sum(self._records[name]["seconds"] for name in self.wanted))
        super().close()

    def accept_made(self, differences: List[str]) -> None:
        for name, made in self.made().items():
            if name in self.wanted:
                origin = manifests.kept(made.made_from, self.wanted[name])
                digest = self._present(made.outputs)[name]
                self._records[name] = {**self._records[name], "made_from": origin, "sha256": digest}
        write_json(self._path, self._records)
        if self._manifest.exists():
            _note(self._manifest, manifests.read(self._manifest), differences)
        else:  # not all files are made: the note is kept with what is begun
            begun = {"files": {}, "versions": versions()}
            _note(self._begun, manifests.read_begun(self._begun) if self._begun.exists() else begun, differences)

    def _parts(self, origin: Origin) -> Dict[str, Origin]:
        return self._stage.files(self._run, origin)

    def _older_parts(self, origin: Origin) -> Dict[str, Origin]:
        """Older runs state the first stage's settings in its manifest only."""
        return self._parts({**manifests.read_made_from(manifest_path(self._folder, "baseline")), **origin})

    def _form(self, origins: Dict[str, Origin]) -> Dict[str, Any]:
        return {"files": origins}


def open_ledger(this: Run, stage: Stage) -> Ledger:
    return (_Together if stage.files is None else _OneByOne)(this, stage)


def unlink(path: Path) -> None:
    with explained(path):
        path.unlink(missing_ok=True)


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


def _in_spite_of(tree: Dict[str, Any]) -> Dict[str, List[str]]:
    return {"in_spite_of": tree["in_spite_of"]} if "in_spite_of" in tree else {}


def _note(path: Path, tree: Dict[str, Any], differences: List[str]) -> None:
    write_json(path, {**tree, "in_spite_of": [*tree.get("in_spite_of", []), *differences]})
