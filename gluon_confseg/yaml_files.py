"""YAML as plain data: nothing is built but strings, numbers, lists and mappings, and not more of them than fit."""

from pathlib import Path
from typing import Any, Dict, Tuple, Union

import yaml

from .plain_data import MAX_DEPTH, read_text

_MAX_NODES = 100_000

# what PyYAML's constructors raise for a scalar that does not have the form of its tag, such as the date 2026-13-45
_SCALAR_ERRORS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


def read_yaml(path: Union[str, Path]) -> Any:
    """A YAML file's content. Raises OSError, and ValueError with one line where it is not valid."""
    return parse_yaml(read_text(path))


def parse_yaml(text: str) -> Any:
    """YAML text as plain data. Raises ValueError, with one line, where it is not valid.

    Not valid are also tags that name code, aliases that stand for more than 100,000 values, and endless ones.
    """
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node)
        return loader.construct_document(node)
    except (yaml.YAMLError, *_SCALAR_ERRORS) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_node(root: yaml.Node) -> None:
    """Aliases may stand for exponentially many values: count them as often as they are used, before any is built."""
    measured: Dict[int, Tuple[int, int]] = {}  # by the node's id: how many nodes it stands for, on how many levels

    def measure(node: yaml.Node) -> Tuple[int, int]:
        if id(node) in measured:
            return measured[id(node)]
        measured[id(node)] = (_MAX_NODES + 1, 0)  # while it is measured: an alias to itself
        below = []
        if isinstance(node, yaml.SequenceNode):
            below = [measure(item) for item in node.value]
        elif isinstance(node, yaml.MappingNode):
            below = [measure(item) for pair in node.value for item in pair]
        count, depth = 1 + sum(each[0] for each in below), 1 + max((each[1] for each in below), default=0)
        if count > _MAX_NODES:
            raise ValueError("its aliases stand for too many values")
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        measured[id(node)] = count, depth
        return count, depth

    measure(root)
