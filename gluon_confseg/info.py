"""What a network costs, part by part: a config's, before it is run, or that of a cell of a finished run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from . import complexity, config, labels
from .backend import mx
from .building import find_cell, make_fusion, make_subnet, needed_heads
from .complexity import Cost
from .config import Config
from .config_cells import Cell
from .data import find_root, open_dataset
from .errors import ConfsegError
from .groups import ClassGroup, output_spaces
from .labels import LabelSet
from .nn import ConfSegNet, make_encoder
from .run import TrainedRun, open_run, read_groups
from .stages import named_groups

_MEGA = 2**20


@dataclass(frozen=True)
class Described:
    """A network that need not exist yet: which cell, with which groups, and what is to be said about that."""

    run: TrainedRun
    cell: Cell
    groups: List[ClassGroup]
    remarks: List[str]


@dataclass(frozen=True)
class Part:
    """A row: `stride` is the image's size over that of what the part gives."""

    title: str
    stride: int
    cost: Cost


def from_run(folder: Path, cell: Optional[str] = None) -> Described:
    """A finished run's cell, by default the last of the paper's. Raises ConfsegError where there is none."""
    run = open_run(folder, [mx.cpu()])
    return Described(run, find_cell(run, cell), read_groups(run), [])


def from_config(
    path: Path, cell: Optional[str] = None, overrides: Sequence[str] = (), data_root: Optional[str] = None
) -> Described:
    """A config's cell, by default the last of the paper's. Raises ConfsegError for what `confseg run` would refuse."""
    settings = config.load(path, overrides)
    names = _labels(settings, data_root)
    if settings.groups.source != "auto":
        found, remarks = named_groups(settings, names), []
    else:
        size = min(settings.groups.max_group_size, names.num_classes - 1)
        found = [ClassGroup(tuple(range(size)))]
        remarks = [
            f"groups are not known before the run (groups.source: auto): subnet 1 stands for each of up to "
            f"{settings.groups.max_groups or 'any number of'}, with the largest group there may be ({size} classes)"
        ]
    run = TrainedRun(settings, path, names, [])
    return Described(run, find_cell(run, cell), found, remarks)


def _labels(settings: Config, data_root: Optional[str]) -> LabelSet:
    if settings.data.name != "folders":
        return labels.get(settings.data.name)
    root, _ = find_root(settings.data.name, data_root)
    return open_dataset(settings.data.name, root, settings.data.train_split).labels


def parts(network: Described, size: Tuple[int, int]) -> List[Part]:
    """Encoder, each subnet, fusion with upsampling, and all together, for one image of `size` (height, width)."""
    settings, count = network.run.config, network.run.num_classes
    encoder = make_encoder(settings.encoder.name, model=settings.encoder.model)
    spaces = output_spaces(network.groups, count, settings.seed)
    names = needed_heads((network.cell,), len(network.groups))
    subnets = [make_subnet(settings, name, count, spaces, encoder) for name in names]
    fusion = make_fusion(network.cell, spaces, count, np.full(count, 1 / count))
    whole = ConfSegNet(encoder, subnets, fusion)
    return _parts(whole, encoder, network, size)


def _parts(whole: ConfSegNet, encoder: mx.gluon.HybridBlock, network: Described, size: Tuple[int, int]) -> List[Part]:
    image = mx.sym.var("data")
    shapes = {"data": (1, 3, *size)}
    features = encoder(image)
    rows = [Part("encoder", encoder.output_stride, _cost(encoder, features, shapes))]
    maps = [mx.sym.var(f"feature{i}") for i in range(len(features))]
    for variable, shape in zip(maps, complexity.output_shapes(mx.sym.Group(list(features)), shapes)):
        shapes[variable.name] = shape
    logits = []
    for m, subnet in enumerate(whole.subnets):
        symbol = subnet(*subnet.inputs(maps))
        rows.append(
            Part(f"subnet {m} ({subnet.num_outputs} outputs)", encoder.output_stride, _cost(subnet, symbol, shapes))
        )
        logits.append(mx.sym.var(f"logits{m}"))
        shapes[logits[m].name] = complexity.output_shapes(symbol, shapes)[0]
    fused = whole.upsample(whole.fusion(*logits), image)
    rows.append(Part("fusion and upsampling", 1, _cost(whole, fused, shapes)))
    return [*rows, Part("all", 1, _cost(whole, whole(image), shapes))]


def _cost(block: mx.gluon.HybridBlock, symbol: Any, shapes: Any) -> Cost:
    """Of a part; the constants of `block` are not counted as parameters."""
    constants = [name for name, p in block.collect_params().items() if isinstance(p, mx.gluon.Constant)]
    whole = mx.sym.Group(list(symbol)) if isinstance(symbol, (tuple, list)) else symbol
    return complexity.count(whole, shapes, constants)


def table(network: Described, size: Tuple[int, int]) -> str:
    """The rows of `parts` as text, with what was counted."""
    head = ("part", "parameters", "multiply-adds", "stride", "parameters MB", "activations MB", "alive at once MB")
    lines = [head]
    for part in parts(network, size):
        cost = part.cost
        memory = (cost.parameter_bytes, cost.activation_bytes, cost.live_bytes)
        figures = [f"{cost.parameters:,}", f"{cost.multiply_adds / 1e9:,.2f} G", str(part.stride)]
        lines.append((part.title, *figures, *(f"{value / _MEGA:,.1f}" for value in memory)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rows = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    remarks = network.remarks if network.cell.subnets is not None else []
    return "\n".join([_headline(network, size), "", *rows, "", *remarks, *_NOTES])


_NOTES = (
    "parameters: trained values; their MB also hold BatchNorm's running statistics and constants",
    "multiply-adds: of convolutions, transposed convolutions and fully connected layers, nothing else",
    "stride: height and width of the image over those of what the part gives",
    "activations: every operator's outputs once, about what training keeps; alive at once: the most that inference",
    "needs at a time, each output freed after its last use (the encoder by itself keeps all its stages), without the",
    "convolutions' work space; MB = 2^20 bytes, float32",
)


def _headline(network: Described, size: Tuple[int, int]) -> str:
    encoder, scale = network.run.config.encoder, network.run.config.data.scale
    name = f"{encoder.name} {encoder.model}" if encoder.model else encoder.name
    scaled = "" if scale == 1 else f" (after data.scale: {scale})"
    return f"{name}, cell {network.cell.key} ({network.cell.title}), one image of {size[0]}x{size[1]}{scaled}"


def describe(
    network: Path,
    *,
    is_run: bool,
    cell: Optional[str] = None,
    overrides: Sequence[str] = (),
    data_root: Optional[str] = None,
) -> Described:
    """The network of a run's folder or of a config's YAML. Raises ConfsegError for the user's mistakes."""
    if not is_run:
        return from_config(network, cell, overrides, data_root)
    if overrides:
        raise ConfsegError(f"--set {overrides[0]}: {network} is a finished run, whose settings stay; give its config")
    return from_run(network, cell)
