"""What is written beside a run's files about what they were made from, and what has changed since.

`stages/STAGE.json`: a finished stage's origin, the digests of its files, its seconds. `stages/STAGE.begun.json`: the
origin of one that is not finished; its checkpoint belongs to that. `stages/STAGE.files.json`, of stages whose files are
made one by one: the same for each file, so that a run is extended by what it lacks.
"""

from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple

from pydantic import AfterValidator, TypeAdapter, ValidationError
from typing_extensions import Annotated, TypedDict

from .errors import ConfsegError
from .files import read_json, sha256

Origin = Dict[str, Any]  # what something was made from: dotted setting, "images of SPLIT", "file NAME" (its digest)
Record = Dict[str, Any]  # {"made_from": Origin, "sha256": digest, "seconds": share of the pass it was made in}


# whose numbers a half-trained network must not be continued with others of; Python and the platform draw none
_DECISIVE = ("gluon_confseg", "numpy", "mxnet", "mxnet-cu112", "gluoncv", "opencv-python", "opencv-python-headless")
_DECISIVE += ("Pillow",)


class Change(NamedTuple):
    """A setting, images or a file that is another one than it was; None is absent."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if isinstance(self.old, dict) or isinstance(self.new, dict):
            return f"{self.key} is {'removed' if self.new is None else 'added'}"
        return f"{self.key}: {_short(self.old)} -> {_short(self.new)}"

    @property
    def harmless(self) -> bool:
        """Whether to redo what depends on it undoes nothing that the user decided."""
        whole_cell = self.key.startswith("cell ") and (isinstance(self.old, dict) or isinstance(self.new, dict))
        return whole_cell or self.key.startswith(("file ", "comparison ", "order "))


def begun_path(folder: Path, stage: str) -> Path:
    return folder / "stages" / f"{stage}.begun.json"


def records_path(folder: Path, stage: str) -> Path:
    return folder / "stages" / f"{stage}.files.json"


def differences(old: Origin, new: Origin) -> List[Change]:
    """What differs between two origins, by key; cells and comparisons are told apart."""
    if old == new:
        return []
    found = _unequal(_told_apart(old), _told_apart(new))
    changed = [change for change in found if isinstance(change.old, dict) and isinstance(change.new, dict)]
    within = [c._replace(key=f"{change.key}: {c.key}") for change in changed for c in _unequal(change.old, change.new)]
    found = [change for change in found if change not in changed] + within
    return found or [Change("order of the cells", "one", "another")]


def missing(folder: Path, names: Iterable[str]) -> List[str]:
    return [f"missing {name}" for name in names if not (folder / name).exists()]


def damaged(folder: Path, digests: Dict[str, str]) -> List[str]:
    """Files that are there, but not as they were written."""
    there = [name for name in digests if (folder / name).exists()]
    return [f"{name} is not the file that was written" for name in there if sha256(folder / name) != digests[name]]


def other_versions(begun: Record, now: Dict[str, str]) -> List[str]:
    """Packages that a stage was begun with another version of; none where that is not known."""
    old = begun.get("versions", now)
    changed = [key for key in _DECISIVE if old.get(key) != now.get(key)]
    return [f"{key} {old.get(key, 'absent')} -> {now.get(key, 'absent')}" for key in changed]


def kept(old: Origin, new: Origin) -> Origin:
    """The origin of what is kept in spite of other settings and images; other files it is still made again for."""
    files = {key: value for key, value in old.items() if key.startswith("file ")}
    return {**{key: value for key, value in new.items() if not key.startswith("file ")}, **files}


def flat(key: str, value: Any) -> Origin:
    """A tree of settings by dotted key."""
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in flat(f"{key}.{name}", inner).items()}
    return {key: value}


def make_record(folder: Path, name: str, origin: Origin, seconds: float) -> Record:
    return {"made_from": origin, "sha256": sha256(folder / name), "seconds": round(seconds, 2)}


def records_of_manifest(manifest: Dict[str, Any], origins: Dict[str, Origin]) -> Dict[str, Record]:
    """Records of the files of a stage that was finished before there were any; `origins`: by file, of what it names."""
    outputs = manifest["outputs"]
    return {
        name: {"made_from": origin, "sha256": outputs[name], "seconds": round(manifest["seconds"] / len(outputs), 2)}
        for name, origin in origins.items()
        if name in outputs
    }


def read(path: Path) -> Dict[str, Any]:
    """A finished stage's `made_from`, `outputs` and `seconds`. Raises ConfsegError for another file, as all below."""
    return _checked(path, _Finished)


def read_made_from(path: Path) -> Origin:
    """What a stage, finished or begun, was made from."""
    return _checked(path, _MadeFrom)["made_from"]


def read_begun(path: Path) -> Dict[str, Any]:
    """What is known of a stage that is not finished: of `made_from` or `files`, `versions`, `in_spite_of` some."""
    return _checked(path, _Begun)


def read_records(path: Path) -> Dict[str, Record]:
    """By name, the files of a stage that were made one by one."""
    return _checked(path, Dict[str, _Made])


def _checked(path: Path, form: Any) -> Any:
    tree = read_json(path)
    try:
        TypeAdapter(form).validate_python(tree, strict=True)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        message = f"{path} does not say what its stage was made from ({where or 'the file'}); delete it and run again"
        raise ConfsegError(message) from None
    return tree


def _comparable(origin: Origin) -> Origin:
    try:
        _told_apart(origin)
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError("cells and comparisons of another form") from error
    return origin


class _Noted(TypedDict, total=False):
    versions: Dict[str, str]
    in_spite_of: List[str]


class _MadeFrom(_Noted):
    made_from: Annotated[Dict[str, Any], AfterValidator(_comparable)]


class _Finished(_MadeFrom):
    outputs: Dict[str, str]
    seconds: float


class _Made(_MadeFrom):
    sha256: str
    seconds: float


class _Begun(_Noted, total=False):
    files: Dict[str, Annotated[Dict[str, Any], AfterValidator(_comparable)]]


def _unequal(old: Origin, new: Origin) -> List[Change]:
    keys = sorted({*old, *new})
    return [Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _told_apart(origin: Origin) -> Origin:
    found = {key: value for key, value in origin.items() if key not in ("cells", "comparisons")}
    found.update({f"cell {cell['key']}": cell for cell in origin.get("cells", ())})
    found.update({f"comparison {first} - {second}": True for first, second in origin.get("comparisons", ())})
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:24]}..."
