"""Networks, heads and predictors from a run's settings and files."""

import logging
import zlib
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np

from . import groups
from .backend import mx, settle
from .config import LOSS_SETTINGS, Cell, Config, Loss, Schedule
from .confusion import ConfusionMatrix, group_mapping
from .errors import ConfsegError
from .files import atomic_path
from .inference import Manner, Predictor, View
from .mixed_precision import half_type, to_half
from .nn import (
    ConfSegNet,
    ConfusionCrossEntropy,
    FocalLoss,
    Fusion,
    LogitAdjustedCrossEntropy,
    LossMaxPooling,
    MergedSubnets,
    OhemCrossEntropy,
    PixelCrossEntropy,
    class_weights,
    get_encoder,
    gluoncv_models,
    make_encoder,
)
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
    num_classes, options = matrix.num_classes, {key: getattr(settings, key) for key in LOSS_SETTINGS[settings.kind]}
    if settings.kind == "confusion":
        return ConfusionCrossEntropy(matrix.row_normalized(), **options)
    if settings.kind == "logit_adjusted":
        return LogitAdjustedCrossEntropy(settings.tau * class_weights.log_prior(matrix))
    by_pixel = {"focal": FocalLoss, "ohem": OhemCrossEntropy, "loss_max_pooling": LossMaxPooling}
    if settings.kind in by_pixel:
        return by_pixel[settings.kind](num_classes, **options)
    if settings.kind == "cross_entropy":
        return PixelCrossEntropy(num_classes)
    by_class = {
        "recall_weighted": class_weights.recall,
        "inverse_frequency": class_weights.inverse_frequency,
        "median_frequency": class_weights.median_frequency,
    }
    return PixelCrossEntropy(num_classes, class_weights=by_class[settings.kind](matrix, **options))


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
    fusion = Fusion(
        fused,
        num_classes,
        rule=cell.rule,
        others=cell.others,
        class_frequency=frequency,
        adjustment=cell.adjustment,
    )
    return View(tuple(map(str, _fused(cell, found))), fusion)


def _seed_for(run: Run, name: str) -> None:
    """Random numbers from the run's seed and the part's name only, so that a part is the same in any company."""
    mx.random.seed(zlib.crc32(f"{run.config.seed}/{name}".encode()) & 0x7FFFFFFF)


def new_encoder(run: Run) -> mx.gluon.HybridBlock:
    settings = run.config.encoder
    _seed_for(run, "encoder")
    encoder = get_encoder(**settings.model_dump(), ctx=run.devices)
    encoder.hybridize(static_alloc=True)
    return encoder


def load_encoder(run: TrainedRun, devices: List[mx.Context]) -> mx.gluon.HybridBlock:
    """The baseline's encoder with every parameter fixed, BatchNorm statistics included (paper section 4.1)."""
    settings = run.config.encoder
    encoder = get_encoder(settings.name, model=settings.model, frozen_batchnorm=True, ctx=devices)
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


def make_subnet(
    config: Config, subnet: int, num_classes: int, found: List[groups.ClassGroup], encoder: mx.gluon.HybridBlock
) -> mx.gluon.HybridBlock:
    """Subnet 0, which is the encoder's own head where it has one, or that of a group (1..M), not initialised."""
    if not subnet and hasattr(encoder, "new_head"):
        return encoder.new_head(num_classes)
    settings = config.subnet if subnet else config.subnet0
    outputs = len(found[subnet - 1].classes) + 1 if subnet else num_classes
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
    subnet = make_subnet(run.config, name.subnet, run.num_classes, found or [], encoder)
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
    elif name.subnet == 0:
        _load_subnet0(subnet, run.config, run.devices)
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
    cell, found = find_cell(run, cell_key), read_groups(run)
    counts = ConfusionMatrix.load(run.folder / CONFUSION_FILE).counts
    fusion = make_view(cell, found, run.num_classes, counts.sum(axis=1) / counts.sum()).fusion
    encoder = load_encoder(run, [device])
    subnets = [_load_subnet(run, name, found, encoder, device) for name in _fused(cell, found)]
    merged = MergedSubnets(subnets)
    merged.copy_values(subnets)
    network = ConfSegNet(encoder, merged, fusion)
    fusion.initialize(ctx=device)
    network.upsample.initialize(ctx=device)
    return network


def bare_network(run: TrainedRun, cell: Cell, found: List[groups.ClassGroup]) -> ConfSegNet:
    """The network that `build_network` makes, from settings alone: without values, which take no memory."""
    fusion = make_view(cell, found, run.num_classes, np.full(run.num_classes, 1 / run.num_classes)).fusion
    encoder = make_encoder(run.config.encoder.name, model=run.config.encoder.model, frozen_batchnorm=True)
    heads = [make_subnet(run.config, name.subnet, run.num_classes, found, encoder) for name in _fused(cell, found)]
    return ConfSegNet(encoder, MergedSubnets(heads), fusion)


def _fused(cell: Cell, found: List[groups.ClassGroup]) -> List[HeadName]:
    """The heads that a cell fuses."""
    others = [] if cell.subnets is None else [HeadName(m, cell.subnets) for m in range(1, len(found) + 1)]
    return [HeadName(0, cell.subnet0), *others]


def _load_subnet(
    run: TrainedRun,
    name: HeadName,
    found: List[groups.ClassGroup],
    encoder: mx.gluon.HybridBlock,
    device: mx.Context,
) -> mx.gluon.HybridBlock:
    subnet = make_subnet(run.config, name.subnet, run.num_classes, found, encoder)
    load_parameters(subnet, run.folder / name.file, [device])
    subnet.hybridize()
    return subnet


def make_predictors(
    run: TrainedRun,
    names: List[HeadName],
    found: List[groups.ClassGroup],
    views: Callable[[], Dict[str, View]],
    manner: Optional[Manner] = None,
) -> List[Predictor]:
    """One predictor per device, from the files in the run's folder; `manner` defaults to the config's."""
    manner = manner or Manner(flip=run.config.evaluation.flip, window=run.config.evaluation.window)
    predictors = []
    for device in run.devices:
        encoder = load_encoder(run, [device])
        subnets = {str(name): _load_subnet(run, name, found, encoder, device) for name in names}
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
    settle()
    with atomic_path(run.folder / name) as temporary:
        block.save_parameters(str(temporary))
    return name
