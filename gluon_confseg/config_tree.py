"""Settings as a plain tree: read from YAML with what a file inherits, merged, overridden; not validated."""

from pathlib import Path
from typing import Any, Dict, Tuple, Union

from typing_extensions import Literal

from .config_schedules import Schedule
from .errors import ConfsegError
from .yaml_files import parse_yaml, read_yaml

BASE_KEY = "_base_"


def read_tree(path: Path, seen: Tuple[Path, ...] = ()) -> Dict[str, Any]:
    """The settings of a YAML file and of what its `_base_` names, not validated."""
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise ConfsegError(f"cannot read the config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfsegError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfsegError(f"{path}: expected a mapping of settings")
    base = tree.pop(BASE_KEY, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfsegError(f"{path}: {BASE_KEY} must be the name of one YAML file")
    if path.resolve() in seen:
        raise ConfsegError(f"{path}: {BASE_KEY} goes in a circle")
    return merge(read_tree(path.parent / base, (*seen, path.resolve())), tree)


def merge(base: Dict[str, Any], over: Dict[str, Any]) -> Dict[str, Any]:
    """`over` wins; mappings are merged key by key, anything else (lists included) is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def override(tree: Dict[str, Any], text: str) -> None:
    """Set, in place, what `text`, key.sub=value with a value in YAML, says; ConfsegError where it says nothing."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfsegError(f"--set {text}: wants key=value, for example --set baseline.epochs=10")
    try:
        parsed = parse_yaml(value)
    except ValueError:
        raise ConfsegError(f"--set {text}: the value is not valid YAML") from None
    node = tree
    *parents, last = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfsegError(f"--set {text}: {parent} has no keys below it")
    node[last] = parsed


def batch_size_of_file(path: Union[str, Path], stage: Literal["baseline", "subnets"]) -> Any:
    """The batch size of a stage in the file itself (and what it inherits), without overrides and not validated."""
    schedule = read_tree(Path(path)).get(stage)
    default = Schedule.model_fields["batch_size"].default
    return schedule.get("batch_size", default) if isinstance(schedule, dict) else default
