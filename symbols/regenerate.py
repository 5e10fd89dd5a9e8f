"""Write the stored graphs and manifest.json again, from the configs: python symbols/regenerate.py [FOLDER]

They are what `confseg export` gives for these cells, without the weights; nothing is trained, and no weight allocated.
Run it after a change of the networks: tests/test_symbols.py compares.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

from gluon_confseg import config, files, labels
from gluon_confseg.backend import mx
from gluon_confseg.building import bare_network, find_cell
from gluon_confseg.config_cells import Cell
from gluon_confseg.errors import ConfsegError
from gluon_confseg.export import Options, graph
from gluon_confseg.run import TrainedRun
from gluon_confseg.stages import named_groups

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "experiments" / "configs"
MANIFEST = "manifest.json"


class Stored(NamedTuple):
    """A graph to store: its config and cell (None: the paper's last one), and the image size of the shapes shown."""

    config: str
    cell: Any
    size: Tuple[int, int]


GRAPHS = {
    "cityscapes_resnet101": Stored("cityscapes", None, (1024, 2048)),
    "cityscapes_resnet101_baseline": Stored("cityscapes", "subnet0_ce", (1024, 2048)),
    "cityscapes_resnet38": Stored("cityscapes_resnet38", None, (1024, 2048)),
    "voc_resnet101": Stored("voc", None, (500, 375)),
    "cityscapes_small": Stored("cityscapes_builtin", None, (128, 256)),
}


def main(folder: Path = HERE) -> None:
    manifest = {name: write(folder, name, stored) for name, stored in GRAPHS.items()}
    about = {"format": 1, "command": "python symbols/regenerate.py", "mxnet": mx.__version__, "graphs": manifest}
    files.write_text(folder / MANIFEST, _json(about))


def write(folder: Path, name: str, stored: Stored) -> Dict[str, Any]:
    """Write one graph; its part of the manifest."""
    settings = config.load(CONFIGS / f"{stored.config}.yaml")
    run = TrainedRun(settings, folder, labels.get(settings.data.name), [])
    cell = find_cell(run, stored.cell)
    shape = (1, 3, *stored.size)
    shapes = _infer(_block(run, cell), shape)  # a block's symbol keeps the shapes that it had when it was first traced
    block = _block(run, cell)
    parameters = block.collect_params()
    for key, parameter in parameters.items():
        parameter.shape = shapes[key]
    symbol = graph.symbol_of(block)
    file = f"{name}-symbol.json"
    with files.atomic_path(folder / file) as temporary:
        symbol.save(str(temporary))
    found = named_groups(settings, run.labels) if cell.subnets else []
    return {
        "file": file,
        "sha256": files.sha256(folder / file),
        "config": f"experiments/configs/{stored.config}.yaml",
        "cell": cell.model_dump(mode="json"),
        "encoder": settings.encoder.name,
        "classes": run.labels.classes,
        "groups": [[run.labels.classes[c] for c in group.classes] for group in found],
        "input": {"name": graph.DATA, "shape": shape, "size": "dynamic"},
        "output": {"name": "scores", "shape": symbol.infer_shape(**{graph.DATA: shape})[1][0]},
        "numbers": int(sum(np.prod(shapes[key]) for key in shapes if not _is_constant(parameters[key]))),
        "arg": {key: shapes[key] for key in symbol.list_arguments() if key != graph.DATA},
        "aux": {key: shapes[key] for key in symbol.list_auxiliary_states()},
        "constants": {key: _repeated(p.value) for key, p in parameters.items() if _is_constant(p)},
    }


def _block(run: TrainedRun, cell: Cell) -> graph.Graph:
    with mx.name.NameManager():  # the names do not depend on what was built before
        network = bare_network(run, cell, named_groups(run.config, run.labels))
        return graph.Graph(network, run.config.augment, Options())


def _infer(block: graph.Graph, shape: Tuple[int, ...]) -> Dict[str, Tuple[int, ...]]:
    """Shapes of all parameters, from the symbol."""
    symbol = graph.symbol_of(block)
    arguments, _, auxiliary = symbol.infer_shape(**{graph.DATA: shape})
    shapes = dict(zip(symbol.list_arguments(), arguments))
    shapes.update(zip(symbol.list_auxiliary_states(), auxiliary))
    unused = set(block.collect_params()) - set(shapes)
    if unused:
        raise ConfsegError(f"the graph does not use {', '.join(sorted(unused))}")
    return {name: shapes[name] for name in block.collect_params()}


def _is_constant(parameter: mx.gluon.Parameter) -> bool:
    return isinstance(parameter, mx.gluon.Constant)


def _repeated(value: mx.nd.NDArray) -> Any:
    """A constant's values, (C, 1, h, w) of equal channels as (1, 1, h, w): it is to be broadcast to its shape."""
    array = value.asnumpy()
    return (array[:1] if array.ndim == 4 and (array == array[:1]).all() else array).tolist()


def _json(tree: Any) -> str:
    """Indented, with lists of numbers and of words on one line."""
    text = json.dumps(tree, indent=1, allow_nan=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
