"""`confseg groups`: from a matrix in a file to the confusing groups and their losses' weights, for any framework."""

from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy as np
import yaml

from . import confusion_files, groups
from .confusion import ConfusionMatrix
from .errors import ConfsegError
from .files import PathLike, write_npz, write_text
from .groups import ClassGroup
from .labelmaps import Classes
from .yaml_files import parse_yaml

GROUPS_FILE, WEIGHTS_FILE, PICTURE_FILE = "groups.yaml", "weights.npz", "groups.png"
LOSS = "L = - c_ii log q_i - lambda * sum over j != i of c_ij log(1 - q_j), true class i, q = softmax, lambda = 5"
ERRATUM = (
    "the paper prints + before lambda in Eq. 2 and 3, which drives wrong classes up; its gradient, Eq. 4, is that of -"
)
OTHERS = "others"


def find_groups(
    file: PathLike,
    *,
    classes: Optional[str],
    output: PathLike,
    source: str = "auto",
    threshold: float = 0.02,
    max_group_size: int = 6,
    max_groups: Optional[int] = 3,
) -> None:
    """Print the confusing groups of a matrix file, and write them, the losses' weights and a picture to `output`.

    file, classes: see confusion_files.read; source: "auto", "paper", or a YAML list of lists of class names.
    Raises ConfsegError for a matrix or settings that will not do.
    """
    listed = None if classes is None else Classes.load(classes).labels
    matrix, names = confusion_files.read(file, listed and listed.classes)
    if not matrix.counts.any():
        raise ConfsegError(f"{file}: all counts are 0; count some images first")
    if source == "auto":
        settings = {"threshold": threshold, "max_group_size": max_group_size, "max_groups": max_groups}
        found = groups.partition(matrix, names, **settings)
    else:
        found = groups.named(names, _chosen(source, listed))
    output = Path(output)
    write_text(output / GROUPS_FILE, _yaml(found, names, file))
    _write_weights(output, matrix, found, names)
    from . import figures  # late: Matplotlib is slow to import

    shown = [group.classes for group in found]
    figures.heatmaps(output / PICTURE_FILE, {"confusion": matrix.counts}, names, groups=shown)
    for number, group in enumerate(found, 1):
        print(f"group {number}: {', '.join(names[c] for c in group.classes)}\n    {group.reason}")
    if not found:
        print(f"no group: no two classes are confused by more than the threshold {threshold}; lower it, or name some")
    absent = [name for name, pixels in zip(names, matrix.counts.sum(axis=1)) if pixels == 0]
    if absent:
        print(f"without a true pixel, so with weights 0, which train nothing: {', '.join(absent)}")
    print(f"loss: {LOSS}\nerratum: {ERRATUM}")
    print(f"{GROUPS_FILE}, {WEIGHTS_FILE} (and its matrices as CSV) and {PICTURE_FILE} are in {output}")


def _chosen(source: str, listed: Any) -> Sequence[Sequence[str]]:
    if source == "paper":
        named = getattr(listed, "named_groups", {})
        if "paper" not in named:
            raise ConfsegError(
                "--source paper: wants --classes cityscapes or --classes voc, whose groups the paper names"
            )
        return named["paper"]
    try:
        chosen = parse_yaml(source)
    except ValueError:
        chosen = None
    if not isinstance(chosen, list) or not all(isinstance(group, list) for group in chosen):
        raise ConfsegError(
            f"--source {source}: wants auto, paper, or lists of names as in [[road, sidewalk], [car, bus]]"
        )
    return chosen


def _yaml(found: List[ClassGroup], names: Sequence[str], file: PathLike) -> str:
    """The groups as a part of a config: groups.source, with the reasons as comments."""
    lines = [
        f"# confseg groups {str(file)!r}",
        "# for a config of `confseg run`",
        "groups:",
        "  source:" if found else "  source: []",
    ]
    for group in found:
        members = yaml.safe_dump(
            [names[c] for c in group.classes], default_flow_style=True, allow_unicode=True, width=float("inf")
        )
        lines += [f"    # {group.reason}", f"    - {members.strip()}"]
    return "\n".join(lines) + "\n"


def _write_weights(output: Path, matrix: ConfusionMatrix, found: List[ClassGroup], names: Sequence[str]) -> None:
    """weights.npz and a CSV per matrix. Subnet 0 tells all classes apart, subnet m the classes of group m and "others".

    subnet{m}_weights  float64 (C, C): c_ij, row-normalised counts, rows = truth; output 0 of a group is "others"
    subnet{m}_outputs  (C,): the outputs' names
    subnet{m}_mapping  int64 (K,): class -> output
    """
    arrays = {"loss": np.array(LOSS), "erratum": np.array(ERRATUM)}
    everything = np.arange(matrix.num_classes)
    subnets = [(matrix, list(names), everything)]
    for group in found:
        outputs = [OTHERS, *(names[c] for c in group.classes)]
        subnets.append((matrix.merged(group), outputs, group.mapping(matrix.num_classes)))
    for number, (merged, outputs, mapping) in enumerate(subnets):
        weights = merged.row_normalized()
        arrays.update({f"subnet{number}_weights": weights, f"subnet{number}_mapping": mapping})
        arrays[f"subnet{number}_outputs"] = np.array(outputs)
        confusion_files.write_matrix(output / f"weights-subnet{number}.csv", weights, outputs)
    write_npz(output / WEIGHTS_FILE, arrays)
    number = len(subnets)
    while (output / f"weights-subnet{number}.csv").exists():  # of an earlier call that found more groups
        (output / f"weights-subnet{number}.csv").unlink()
        number += 1
