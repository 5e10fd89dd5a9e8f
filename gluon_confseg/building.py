"""Networks, heads and predictors from a run's settings and files."""

import logging
import zlib
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np

from . import groups
from .backend import mx, settle
from .config import Cell, Loss, Schedule, Subnet
from .confusion import ConfusionMatrix, group_mapping
from .errors import ConfsegError
from .files import atomic_path
from .inference import Predictor, View
from .mixed_precision import half_type, to_half
from .nn import ConfSegNet, ConfusionCrossEntropy, Fusion, PixelCrossEntropy, get_encoder
from .nn import Subnet as SubnetBlock
from .nn.resnet38 import is_released_checkpoint, load_head
from .nn.weights import load_parameters
from .run import BASELINE, CONFUSION_FILE, ENCODER_FILE, HeadName, Run, TrainedRun, read_groups
from .training import Head, HeadLoss, Trunk, make_trainer

_log = logging.getLogger(__name__)

SMALL_DIAGONAL = 0.1  # c_ii below this starves the class under the paper's loss (RECIPE: pole, 0.03, IoU 1 -> 0)


def needed_heads(cells: Tuple[Cell, ...], num_groups: int) -> List[HeadName]:
    """The heads that the cells fuse, each once: subnet 0 first, then group by group."""
    names = {HeadName(0, cell.subnet0) for cell in cells}
    for cell in cells:
        if cell.subnets is not None:
            names |= {HeadName(m, cell.subnets) for m in range(1, num_groups + 1)}
    return sorted(names, key=lambda name: (name.subnet, name.loss))


def make_loss(settings: Loss, matrix: ConfusionMatrix) -> mx.gluon.HybridBlock:
    """The loss of a head whose output space is that of `matrix` (merged, for a group's subnet)."""
    if settings.kind == "cross_entropy":
        return PixelCrossEntropy(matrix.num_classes)
    weights = matrix.row_normalized()
    if settings.kind == "recall_weighted":
        right = np.diag(weights)
        return PixelCrossEntropy(matrix.num_classes, class_weights=right + settings.lam * (1 - right))
    return ConfusionCrossEntropy(weights, lam=settings.lam, diagonal=settings.diagonal)


def warn_small_diagonal(run: Run, name: HeadName, matrix: ConfusionMatrix) -> None:
    settings = run.config.losses[name.loss]
    if settings.kind != "confusion" or settings.diagonal != "confusion" or name.subnet:
        return
    names = run.labels.classes
    small = [f"{names[i]} {c:.3f}" for i, c in enumerate(np.diag(matrix.row_normalized())) if c < SMALL_DIAGONAL]
    if small:
        _log.warning(
            "%s: c_ii below %s, which starves these classes (diagonal: one does not): %s",
            *(name, SMALL_DIAGONAL, ", ".join(small)),
        )


def label_table(output_of_class: np.ndarray) -> np.ndarray:
    """uint8 (256,): output for each label value; 255 where the label is no class."""
    table = np.full(256, 255, np.uint8)
    table[: len(output_of_class)] = output_of_class
    return table


def make_view(cell: Cell, found: List[groups.ClassGroup], num_classes: int, frequency: np.ndarray) -> View:
    fused = [] if cell.subnets is None else found
    names = [HeadName(0, cell.subnet0), *(HeadName(m, cell.subnets) for m in range(1, len(fused) + 1))]
    fusion = Fusion(
        fused,
        num_classes,
        rule=cell.rule,
        others=cell.others,
        class_frequency=frequency,
        adjustment=cell.adjustment,
    )
    return View(tuple(map(str, names)), fusion)


def _seed_for(run: Run, name: str) -> None:
    """Random numbers from the run's seed and the part's name only, so that a part is the same in any company."""
    mx.random.seed(zlib.crc32(f"{run.config.seed}/{name}".encode()) & 0x7FFFFFFF)


def new_encoder(run: Run) -> mx.gluon.HybridBlock:
    settings = run.config.encoder
    _seed_for(run, "encoder")
    encoder = get_encoder(
        settings.name, frozen_batchnorm=settings.frozen_batchnorm, weights=settings.weights, ctx=run.devices
    )
    encoder.hybridize(static_alloc=True)
    return encoder


def load_encoder(run: TrainedRun, devices: List[mx.Context]) -> mx.gluon.HybridBlock:
    """The baseline's encoder with every parameter fixed, BatchNorm statistics included (paper section 4.1)."""
    encoder = get_encoder(run.config.encoder.name, frozen_batchnorm=True, ctx=devices)
    load_parameters(encoder, run.folder / ENCODER_FILE, devices)
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


def _new_subnet(run: TrainedRun, name: HeadName, found: List[groups.ClassGroup]) -> SubnetBlock:
    settings: Subnet = run.config.subnet if name.subnet else run.config.subnet0
    outputs = len(found[name.subnet - 1].classes) + 1 if name.subnet else run.num_classes
    return SubnetBlock(outputs, **settings.model_dump(exclude={"weights"}))


def new_head(
    run: Run,
    name: HeadName,
    encoder: mx.gluon.HybridBlock,
    loss: mx.gluon.HybridBlock,
    schedule: Schedule,
    found: Optional[List[groups.ClassGroup]] = None,
) -> Head:
    """A head ready to train: at random, or, for a second-stage subnet 0, from the baseline's head."""
    subnet = _new_subnet(run, name, found or [])
    _seed_for(run, str(name))
    subnet.initialize(mx.init.MSRAPrelu(slope=0), ctx=run.devices)
    features = encoder(mx.nd.zeros((1, 3, 32, 32), ctx=run.devices[0]))
    inputs = subnet.inputs(features)
    subnet(*inputs)  # gives deferred shapes their values now, in this seed's order
    settle()
    rate = schedule.learning_rate
    if name.subnet == 0 and name.loss != BASELINE:
        load_parameters(subnet, run.folder / HeadName(0, BASELINE).file, run.devices)
        rate = run.config.subnets.finetune_learning_rate
    elif name.subnet == 0 and run.config.subnet0.weights is not None:
        _load_subnet0(subnet, run.config.subnet0.weights, run.devices)
    if encoder.output_stride % schedule.loss_stride:
        raise ConfsegError(
            f"loss_stride: {schedule.loss_stride} does not divide the encoder's output stride {encoder.output_stride}"
        )
    half = to_half(subnet, len(inputs), half_type(run.devices)) if run.config.amp else None
    block = HeadLoss(subnet, loss, encoder.output_stride // schedule.loss_stride, half)
    block.upsample.initialize(ctx=run.devices)
    loss.initialize(ctx=run.devices)
    block.hybridize(static_alloc=True)
    mapping = group_mapping(found[name.subnet - 1], run.num_classes) if name.subnet else np.arange(run.num_classes)
    return Head(str(name), block, make_trainer(subnet, schedule), rate, label_table(mapping))


def _load_subnet0(subnet: SubnetBlock, path: str, devices: List[mx.Context]) -> None:
    if is_released_checkpoint(path):
        load_head(subnet, path)
    else:
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
    cell, found = find_cell(run, cell_key), read_groups(run)
    counts = ConfusionMatrix.load(run.folder / CONFUSION_FILE).counts
    fusion = make_view(cell, found, run.num_classes, counts.sum(axis=1) / counts.sum()).fusion
    names = [HeadName(0, cell.subnet0)]
    if cell.subnets is not None:
        names += [HeadName(m, cell.subnets) for m in range(1, len(found) + 1)]
    subnets = [_load_subnet(run, name, found, device) for name in names]
    network = ConfSegNet(load_encoder(run, [device]), subnets, fusion)
    fusion.initialize(ctx=device)
    network.upsample.initialize(ctx=device)
    return network


def _load_subnet(run: TrainedRun, name: HeadName, found: List[groups.ClassGroup], device: mx.Context) -> SubnetBlock:
    subnet = _new_subnet(run, name, found)
    load_parameters(subnet, run.folder / name.file, [device])
    subnet.hybridize()
    return subnet


def make_predictors(
    run: TrainedRun, names: List[HeadName], found: List[groups.ClassGroup], views: Callable[[], Dict[str, View]]
) -> List[Predictor]:
    """One predictor per device, from the files in the run's folder."""
    predictors = []
    for device in run.devices:
        subnets = {str(name): _load_subnet(run, name, found, device) for name in names}
        made = views()
        for view in made.values():
            if view.fusion is not None:
                view.fusion.initialize(ctx=device)
        augment = run.config.augment
        predictors.append(
            Predictor(
                load_encoder(run, [device]),
                subnets,
                made,
                scale=run.config.data.scale,
                flip=run.config.evaluation.flip,
                mean=augment.mean,
                std=augment.std,
                device=device,
            )
        )
    return predictors


def save_parameters(run: Run, block: mx.gluon.Block, name: str) -> str:
    settle()
    with atomic_path(run.folder / name) as temporary:
        block.save_parameters(str(temporary))
    return name
