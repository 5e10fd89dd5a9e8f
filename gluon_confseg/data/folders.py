"""Any other data set: two folders per split and a class list, described in a YAML file."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type, TypeVar

from pydantic import Field, ValidationError, field_validator
from typing_extensions import Annotated

from ..config_base import Section
from ..errors import ConfsegError
from ..labels import IGNORE_LABEL, LabelSet, palette
from ..yaml_files import read_yaml
from .base import (
    IMAGE_SUFFIXES,
    OnProblem,
    PathLike,
    Sample,
    SegmentationDataset,
    files_by_stem,
    join,
    read_list,
    refuse,
    require_folders,
    require_split,
)

FILE_NAME = "dataset.yaml"

_Byte = Annotated[int, Field(ge=0, le=255)]


class _Class(Section):
    name: str
    color: Optional[Tuple[_Byte, _Byte, _Byte]] = None
    ids: Optional[List[_Byte]] = None


class _ClassList(Section):
    name: Optional[str] = None
    images: Dict[str, str] = {}
    labels: Dict[str, str] = {}
    classes: List[_Class]
    ignore: List[_Byte] = []
    ignore_colors: List[Tuple[_Byte, _Byte, _Byte]] = []

    @field_validator("classes", mode="before")
    @classmethod
    def _plain_names(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [item if isinstance(item, dict) else {"name": item} for item in value]


class _Description(_ClassList):
    images: Dict[str, str]
    labels: Dict[str, str]


_Form = TypeVar("_Form", bound=_ClassList)


class FolderPairs(SegmentationDataset):
    """One split of a data set of one's own; `root` is the YAML file that describes it, or a folder with dataset.yaml.

    ::

        name: harbour                  # optional; else the name of the YAML file's folder
        images:                        # a folder per split, relative to this file: PNG or JPEG
          train: photos/train
          val: photos/val
          test: photos/test            # a split that `labels` leaves out has no labels
        labels:                        # PNG (8-bit gray or palette), of the image's name and size
          train: masks/train
          val: masks/val
        classes:                       # at least two, in train id order
          - water                      # a plain name: the id in the PNG is the position, here 0
          - {name: quay, color: [128, 64, 128], ids: [1, 7]}   # both optional: colour in figures, ids in the PNG
        ignore: [254]                  # optional: ids that do not count; 255 never counts, unless it is a class's id
        ignore_colors: [[1, 2, 3]]     # optional: the same in colour-coded maps, which only `confseg confusion` reads

    An image a/NAME.jpg belongs to the label b/NAME.png. Raises ConfsegError for a YAML that is not of this form, an id
    that stands for two classes and a missing folder, and as SegmentationDataset does.
    """

    def __init__(self, root: PathLike, split: str, on_problem: OnProblem = refuse):
        path = Path(root)
        path = path / FILE_NAME if path.is_dir() else path
        description = _read(path, _Description)
        name = description.name or path.resolve().parent.name
        labels = _label_set(name, description, path)
        require_split(name, split, description.images)
        folders = [part[split] for part in (description.images, description.labels) if split in part]
        require_folders(name, path.parent, folders)
        images = files_by_stem(path.parent / description.images[split], IMAGE_SUFFIXES, on_problem=on_problem)
        if split in description.labels:
            pairs = files_by_stem(path.parent / description.labels[split], (".png",), on_problem=on_problem)
            samples = join(name, images, pairs, description.labels[split], on_problem)
        else:
            samples = [Sample(id_, image, None) for id_, image in images.items()]
        super().__init__(labels, split, samples, on_problem)


def read_classes(path: PathLike) -> Tuple[LabelSet, bool]:
    """A list of classes, and whether each class is given a colour of its own in it.

    A YAML of `FolderPairs` (only `classes` is needed) or a YAML list of names; any other file has one name per line.
    Raises ConfsegError for a file of another form.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        description = _read(path, _ClassList)
    else:
        description = _ClassList(classes=read_list(path))
    own_colors = {item.color for item in description.classes} - {None}
    labels = _label_set(description.name or path.stem, description, path)
    return labels, len(own_colors) == labels.num_classes


def _read(path: Path, form: Type[_Form]) -> _Form:
    try:
        tree = read_yaml(path)
        plain_names = form is _ClassList and isinstance(tree, list)
        return form.model_validate({"classes": tree} if plain_names else tree or {})
    except OSError as error:
        raise ConfsegError(
            f"cannot read {path}: {error.strerror}; give a YAML file, or a folder with {FILE_NAME}"
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        keys = ", ".join(form.model_fields)
        raise ConfsegError(f"{path}: {where}: {problem['msg']}; the keys are {keys}") from None
    except ValueError as error:
        raise ConfsegError(f"{path}: not valid YAML: {error}") from error


def _label_set(name: str, description: _ClassList, path: Path) -> LabelSet:
    classes = description.classes
    raw_ids: Dict[int, int] = {}
    for train, item in enumerate(classes):
        for raw in [train] if item.ids is None else item.ids:
            if raw in raw_ids or raw in description.ignore:
                other = classes[raw_ids[raw]].name if raw in raw_ids else "ignore"
                raise ConfsegError(
                    f"{path}: id {raw} stands for {item.name!r} and for {other!r}; give each id one meaning"
                )
            raw_ids[raw] = train
    for raw in (*description.ignore, IGNORE_LABEL):
        raw_ids.setdefault(raw, IGNORE_LABEL)
    defaults = palette(len(classes) + 1)[1:]  # the palette starts with black, the ignore label's colour
    return LabelSet(
        name=name,
        classes=tuple(item.name for item in classes),
        colors=tuple(item.color or default for item, default in zip(classes, defaults)),
        raw_ids=raw_ids,
        ignored_colors=tuple(description.ignore_colors),
    )
