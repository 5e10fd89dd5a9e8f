"""Networks, heads and predictors from a run's settings and files."""

import logging
import zlib
from dataclasses import replace
from typing import Callable, Dict, List, Optional, Sequence

import numpy as np

from . import groups
from .backend import mx, settle
from .config import Config
from .config_cells import Cell
from .config_schedules import Schedule
from .confusion import ConfusionMatrix, group_mapping
from .errors import ConfsegError
from .groups import OutputSpace, OutputSpaces
from .heads import Head, HeadLoss, Trunk, make_trainer
from .inference import Manner, Predictor, View
from .mixed_precision import half_type, to_half
from .nn import (
    ConfSegNet,
    Fusion,
    MergedSubnets,
    get_encoder,
    gluoncv_models,
    make_encoder,
)
from .nn import Subnet as SubnetBlock
from .nn.resnet38 import is_released_checkpoint, load_head
from .nn.weights import load_parameters, whole_file
from .run import (
    BASELINE,
    CONFUSION_FILE,
    HeadName,
    Run,
    TrainedRun,
    encoder_file,
    heads_beside_subnet0,
    read_spaces,
)

_log = logging.getLogger(__name__)


def needed_heads(cells: Sequence[Cell], num_groups: int) -> List[HeadName]:
    """The heads that the cells fuse, each once: subnet 0 first, then group by group."""
    names = {name for cell in cells for name in _fused(cell, num_groups)}
    return sorted(names, key=lambda name: (name.subnet, name.loss, name.spaces, name.shape or "", name.joint or ""))


def by_encoder(cells: Sequence[Cell]) -> List[List[Cell]]:
    """The cells, those together that have an encoder in common."""
    found: Dict[Optional[str], List[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.joint, []).append(cell)
    return list(found.values())


def label_table(output_of_class: np.ndarray) -> np.ndarray:
    """uint8 (256,): output for each label value; 255 where the label is no class."""
    table = np.full(256, 255, np.uint8)
    table[: len(output_of_class)] = output_of_class
    return table


def make_fusion(cell: Cell, spaces: OutputSpaces, num_classes: int, frequency: np.ndarray) -> Fusion:
    fused = [] if cell.subnets is None else spaces[cell.spaces]
    options = {"rule": cell.rule, "others": cell.others, "adjustment": cell.adjustment}
    return Fusion(fused, num_classes, class_frequency=frequency, **options)


def make_view(cell: Cell, spaces: OutputSpaces, num_classes: int, frequency: np.ndarray) -> View:
    names = _fused(cell, len(spaces["groups"]))
    return View(tuple(map(str, names)), make_fusion(cell, spaces, num_classes, frequency))


def space_of(name: HeadName, spaces: OutputSpaces) -> OutputSpace:
    """What a head tells apart; None is all classes."""
    return spaces[name.spaces][name.subnet - 1] if name.subnet else None


def seen_by(name: HeadName, spaces: OutputSpaces, matrix: ConfusionMatrix) -> ConfusionMatrix:
    """The confusion matrix that a head's loss takes its weights from."""
    if name.subnet and name.spaces == "focused":
        return matrix.focused(spaces["groups"][name.subnet - 1])
    space = space_of(name, spaces)
    return matrix if space is None else matrix.merged(space)


def _seed_for(run: Run, name: str) -> None:
    """Random numbers from the run's seed and the part's name only, so that a part is the same in any company."""
    mx.random.seed(zlib.crc32(f"{run.config.seed}/{name}".encode()) & 0x7FFFFFFF)


def new_encoder(run: Run) -> mx.gluon.HybridBlock:
    settings = run.config.encoder
    _seed_for(run, "encoder")
    encoder = get_encoder(**settings.model_dump(), ctx=run.devices)
    encoder.hybridize(static_alloc=True)
    return encoder


def load_encoder(run: TrainedRun, devices: List[mx.Context], joint: Optional[str] = None) -> mx.gluon.HybridBlock:
    """The baseline's encoder, or that of a joint training, with every parameter fixed (paper section 4.1).

    BatchNorm's statistics are fixed too.
    """
    settings = run.config.encoder
    encoder = get_encoder(settings.name, model=settings.model, frozen_batchnorm=True, ctx=devices)
    load_parameters(encoder, run.folder / encoder_file(joint), devices)
    encoder.collect_params().setattr("grad_req", "null")
    encoder.hybridize()
    return encoder


def make_trunk(run: Run, encoder: mx.gluon.HybridBlock, schedule: Optional[Schedule] = None) -> Trunk:
    """The encoder for training: trained with `schedule`, or frozen without one; in mixed precision where asked."""
    half = None
    if run.config.amp:
        half = to_half(encoder, 1, half_type(run.devices))
        half.hybridize(static_alloc=schedule is not None)
    if schedule is None:
        return Trunk(encoder, half=half)
    return Trunk(encoder, make_trainer(encoder, schedule), schedule.learning_rate, half)


def make_subnet(
    config: Config, name: HeadName, num_classes: int, spaces: OutputSpaces, encoder: mx.gluon.HybridBlock
) -> mx.gluon.HybridBlock:
    """Subnet 0, which is the encoder's own head where it has one, or another one (1..M), not initialised."""
    if not name.subnet and hasattr(encoder, "new_head"):
        return encoder.new_head(num_classes)
    shape = config.shapes[name.shape] if name.shape else config.subnet
    settings, group = shape if name.subnet else config.subnet0, space_of(name, spaces)
    outputs = num_classes if group is None else len(group.classes) + 1
    return SubnetBlock(outputs, **settings.model_dump(exclude={"weights"}))


def check_strides(config: Config, output_stride: int) -> None:
    """ConfsegError where a loss's stride, of either stage, does not divide the encoder's output stride."""
    _check_stride("baseline.loss_stride", config.baseline.loss_stride, output_stride)
    _check_stride("subnets.loss_stride", config.subnets.loss_stride, output_stride)
    for name, loss in config.losses.items():
        _check_stride(f"losses.{name}.stride", loss.stride or 1, output_stride)


def _check_stride(key: str, stride: int, output_stride: int) -> None:
    if output_stride % stride:
        raise ConfsegError(f"{key}: {stride} does not divide the encoder's output stride {output_stride}")


def new_head(
    run: Run,
    name: HeadName,
    encoder: mx.gluon.HybridBlock,
    loss: mx.gluon.HybridBlock,
    schedule: Schedule,
    spaces: Optional[OutputSpaces] = None,
) -> Head:
    """A head ready to train: at random, or, for a second-stage subnet 0, from the baseline's head.

    A joint training's start from the same values in every such training, subnet 0 from the baseline's first ones.
    """
    subnet = make_subnet(run.config, name, run.num_classes, spaces or {}, encoder)
    first = name.subnet == 0 and (name.loss == BASELINE or name.joint is not None)
    if name.joint is None:
        _seed_for(run, str(name))
    else:
        _seed_for(run, str(HeadName(0, BASELINE) if first else HeadName(name.subnet, "joint", name.spaces)))
    subnet.initialize(mx.init.MSRAPrelu(slope=0), ctx=run.devices)
    features = encoder(mx.nd.zeros((1, 3, 32, 32), ctx=run.devices[0]))
    inputs = subnet.inputs(features)
    subnet(*inputs)  # gives deferred shapes their values now, in this seed's order
    settle()
    rate = schedule.learning_rate
    if first:
        _load_subnet0(subnet, run.config, run.devices)
    elif name.subnet == 0:
        load_parameters(subnet, run.folder / HeadName(0, BASELINE).file, run.devices)
        rate = run.config.subnets.finetune_learning_rate
    stride = schedule.loss_stride
    if name.loss != BASELINE:
        stride = run.config.losses[name.loss].stride or stride
    _check_stride("loss_stride", stride, encoder.output_stride)
    half = to_half(subnet, len(inputs), half_type(run.devices)) if run.config.amp else None
    block = _ready(run, HeadLoss(subnet, loss, encoder.output_stride // stride, half))
    table = label_table(output_of_class(space_of(name, spaces or {}), run.num_classes))
    return Head(str(name), block, make_trainer(subnet, schedule), rate, table, stride)


def with_loss(run: Run, head: Head, loss: mx.gluon.HybridBlock) -> Head:
    """The same head, its subnet and its trainer, with another loss."""
    block = HeadLoss(head.block.subnet, loss, head.block.factor, head.block.half)
    return replace(head, block=_ready(run, block))


def _ready(run: Run, block: HeadLoss) -> HeadLoss:
    block.loss.initialize(ctx=run.devices)
    block.hybridize(static_alloc=True)
    return block


def output_of_class(group: OutputSpace, num_classes: int) -> np.ndarray:
    """int64 (K,): a subnet's output for each class."""
    return np.arange(num_classes) if group is None else group_mapping(group, num_classes)


def _load_subnet0(subnet: mx.gluon.HybridBlock, config: Config, devices: List[mx.Context]) -> None:
    """The baseline's subnet 0 from subnet0.weights, or from encoder.weights, where these are of a whole model."""
    path = config.subnet0.weights
    if isinstance(subnet, gluoncv_models.GluonCVHead):
        whole = config.encoder.weights if config.encoder.weights != "imagenet" else None
        path = path or (whole and gluoncv_models.weights_file(str(config.encoder.model), whole))
        if path and gluoncv_models.load_head(subnet, path, devices):
            return
        if config.subnet0.weights or not config.baseline.epochs:
            raise ConfsegError(f"{path or config.encoder.weights} holds no head; give one in subnet0.weights")
        _log.info("subnet 0 is the head of %s, at random", config.encoder.model)
    elif path is not None and is_released_checkpoint(path):
        load_head(subnet, path)
    elif path is not None:
        load_parameters(subnet, path, devices)


def find_cell(run: TrainedRun, key: Optional[str] = None) -> Cell:
    """The cell with that key, by default the last one of the paper's; ConfsegError lists the keys there are."""
    by_key = {cell.key: cell for cell in run.config.cells}
    if key is None:
        return [cell for cell in run.config.cells if cell.role in ("baseline", "paper")][-1]
    if key not in by_key:
        raise ConfsegError(f"{run.folder} has no cell {key!r}; its cells: {', '.join(by_key)}")
    return by_key[key]


def build_network(run: TrainedRun, cell_key: str, device: mx.Context) -> ConfSegNet:
    """The network of a cell of a finished run, with its weights: normalised images in, log-scores out.

    Raises ConfsegError for a cell that is not in the run's config.
    """
    cell, spaces = find_cell(run, cell_key), read_spaces(run)
    counts = ConfusionMatrix.load(run.folder / CONFUSION_FILE).counts
    fusion = make_fusion(cell, spaces, run.num_classes, counts.sum(axis=1) / counts.sum())
    encoder = load_encoder(run, [device], cell.joint)
    names = _fused(cell, len(spaces["groups"]))
    subnets = [_load_subnet(run, name, spaces, encoder, device) for name in names]
    merged = MergedSubnets(subnets)
    merged.copy_values(subnets)
    network = ConfSegNet(encoder, merged, fusion)
    fusion.initialize(ctx=device)
    network.upsample.initialize(ctx=device)
    return network


def bare_network(run: TrainedRun, cell: Cell, found: List[groups.ClassGroup]) -> ConfSegNet:
    """The network that `build_network` makes, from settings alone: without values, which take no memory."""
    spaces = groups.output_spaces(found, run.num_classes, run.config.seed)
    fusion = make_fusion(cell, spaces, run.num_classes, np.full(run.num_classes, 1 / run.num_classes))
    encoder = make_encoder(run.config.encoder.name, model=run.config.encoder.model, frozen_batchnorm=True)
    heads = [make_subnet(run.config, name, run.num_classes, spaces, encoder) for name in _fused(cell, len(found))]
    return ConfSegNet(encoder, MergedSubnets(heads), fusion)


def _fused(cell: Cell, num_groups: int) -> List[HeadName]:
    """The heads that a cell fuses."""
    others = heads_beside_subnet0(num_groups, cell.losses_in_turn, cell.spaces, cell.shapes, cell.joint)
    return [HeadName(0, cell.subnet0, joint=cell.joint), *others]


def _load_subnet(
    run: TrainedRun,
    name: HeadName,
    spaces: OutputSpaces,
    encoder: mx.gluon.HybridBlock,
    device: mx.Context,
) -> mx.gluon.HybridBlock:
    subnet = make_subnet(run.config, name, run.num_classes, spaces, encoder)
    load_parameters(subnet, run.folder / name.file, [device])
    subnet.hybridize()
    return subnet


def make_predictors(
    run: TrainedRun,
    names: List[HeadName],
    spaces: OutputSpaces,
    views: Callable[[], Dict[str, View]],
    manner: Optional[Manner] = None,
) -> List[Predictor]:
    """One predictor per device, from the files in the run's folder; `manner` defaults to the config's.

    The heads `names` are all of one encoder: the baseline's, or that of one joint training.
    """
    (joint,) = {name.joint for name in names}
    manner = manner or Manner(flip=run.config.evaluation.flip, window=run.config.evaluation.window)
    predictors = []
    for device in run.devices:
        encoder = load_encoder(run, [device], joint)
        subnets = {str(name): _load_subnet(run, name, spaces, encoder, device) for name in names}
        made = views()
        for view in made.values():
            if view.fusion is not None:
                view.fusion.initialize(ctx=device)
        augment = run.config.augment
        predictors.append(
            Predictor(
                encoder,
                subnets,
                made,
                scale=run.config.data.scale,
                manner=manner,
                mean=augment.mean,
                std=augment.std,
                device=device,
            )
        )
    return predictors


def save_parameters(run: Run, block: mx.gluon.Block, name: str) -> str:
    """Write a file of the run's folder (worker 0 does); returns its name."""
    if run.job.first:
        with whole_file(run.folder / name) as temporary:
            block.save_parameters(temporary)
    return name
