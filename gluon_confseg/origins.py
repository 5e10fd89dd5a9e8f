"""What the files of a stage depend on: settings by name, and, where files are made one by one, what each depends on."""

from typing import Any, Dict, List, Union

from .config import Config, to_tree
from .config_cells import Cell
from .config_losses import Loss
from .manifests import Origin
from .nn.plugins import encoder_digest
from .run import BASELINE, CONFUSION_FILE, GROUPS_FILE, HeadName, Run, heads_beside_subnet0, read_groups

_INHERITED = ("seed", "amp", "augment.", "data.")  # settings of the first stage that later ones use too
_SUBNET0 = "subnet"  # stands where other heads have their `spaces`


def baseline_settings(config: Config) -> Dict[str, Any]:
    data = {key: getattr(config.data, key) for key in ("name", "train_split", "scale")}
    plugin = encoder_digest(config.encoder.name)
    plugins = {"plugin": plugin} if plugin else {}
    own = dump(config, "encoder", "subnet0", "augment", "baseline", "seed")
    return {
        "data": data,
        **own,
        **plugins,
        **({"amp": True} if config.amp else {}),
    }  # absent where older runs have none


def confusion_settings(config: Config) -> Dict[str, Any]:
    more = counted_on(config)[1:]
    counted = {"counted_on": more} if more else {}
    return {**baseline_settings(config), **dump(config, "confusion_images", "evaluation"), **counted}


def subnet_settings(config: Config) -> Dict[str, Any]:
    """Of the cells only the losses and shapes of their heads: another title or fusion rule needs no training."""
    used, tree = _used_losses(config), to_tree(config)
    losses = {name: loss for name, loss in tree["losses"].items() if name in used}
    cells = _of_baseline(config)
    heads = {(_SUBNET0, cell.subnet0) for cell in cells}
    heads |= {(cell.spaces, " ".join(cell.losses_in_turn), *cell.shapes) for cell in cells if cell.subnets is not None}
    shapes = {shape: tree["shapes"][shape] for cell in cells for shape in cell.shapes}
    own = {"losses": losses, "heads": [list(head) for head in sorted(heads)], **({"shapes": shapes} if shapes else {})}
    return {**baseline_settings(config), **dump(config, "subnet", "subnets"), **own}


def joint_settings(config: Config, name: str) -> Dict[str, Any]:
    """Of the joint training `name`: what the baseline depends on, with a schedule, losses and settings of its own."""
    tree, joint = to_tree(config), config.joint[name]
    own = dict(tree["joint"][name])
    schedule = own.pop("schedule") or tree["baseline"]
    losses = {loss: tree["losses"][loss] for loss in (joint.subnet0, joint.subnets) if loss is not None}
    start = {key: value for key, value in baseline_settings(config).items() if key != "baseline"}
    subnet = {} if joint.subnets is None else dump(config, "subnet")
    return {**start, **subnet, "joint": own, "schedule": schedule, "losses": losses}


def report_settings(config: Config) -> Dict[str, Any]:
    comparisons = dump(config, "comparisons") if config.comparisons else {}
    return {**dump(config, "name", "cells", "paper_table"), **comparisons}


def dump(config: Config, *sections: str) -> Dict[str, Any]:
    tree = to_tree(config)
    return {section: tree[section] for section in sections}


def counted_on(config: Config) -> List[str]:
    """Splits that a confusion matrix is wanted of: first that of the groups, then those that losses ask for."""
    asked = {loss.counted_on for loss in _used_losses(config).values()} - {None, config.confusion_images}
    return [config.confusion_images, *sorted(map(str, asked))]


def confusion_file(config: Config, split: str) -> str:
    return CONFUSION_FILE if split == config.confusion_images else _other_confusion_file(split)


def _other_confusion_file(split: str) -> str:
    return f"confusion-{split}.npz"


def _used_losses(config: Config) -> Dict[str, Loss]:
    """Those that heads on the baseline's encoder are trained with."""
    used = {name for cell in _of_baseline(config) for name in (cell.subnet0, *cell.losses_in_turn)}
    return {name: loss for name, loss in config.losses.items() if name in used}


def _of_baseline(config: Config) -> List[Cell]:
    """The cells whose encoder is the baseline's."""
    return [cell for cell in config.cells if cell.joint is None]


def files_of_confusion(run: Run, origin: Origin) -> Dict[str, Origin]:
    """The matrices of a stage that depends on `origin`, and what each depends on."""
    splits = {CONFUSION_FILE: origin["confusion_images"]}
    splits.update({_other_confusion_file(split): split for split in origin.get("counted_on", ())})
    shared = _chosen(origin, *_INHERITED, "evaluation.", "file ")
    found = {file: {**shared, **_chosen(origin, f"images of {split}")} for file, split in splits.items()}
    found[CONFUSION_FILE].update(_chosen(origin, "confusion_images"))
    return found


def files_of_subnets(run: Run, origin: Origin) -> Dict[str, Origin]:
    """The heads of a stage that depends on `origin`, in the order in which they are trained, and what each depends on.

    The run's groups are read.
    """
    names = heads_of(origin["heads"], len(read_groups(run)))
    return {name.file: _origin_of_head(name, origin) for name in names}


def heads_of(kinds: List[Union[str, List[str]]], num_groups: int) -> List[HeadName]:
    """The trained heads that `subnet_settings` names under "heads", in the order of `building.needed_heads`.

    An entry is [spaces, loss, shape ...], its loss several in turn with spaces between. Older runs have them in words:
    "subnet ce", "group ce", "all ce near far".
    """
    names = []
    for entry in kinds:
        spaces, losses, *shapes = entry.split(" ") if isinstance(entry, str) else entry
        if spaces == _SUBNET0:
            names += [HeadName(0, losses)] if losses != BASELINE else []
        elif losses != str(None):
            spaces = "groups" if spaces == "group" else spaces
            names += heads_beside_subnet0(num_groups, losses.split(" "), spaces, shapes)
    return sorted(set(names), key=lambda name: (name.subnet, name.loss, name.spaces, name.shape or ""))


def _origin_of_head(name: HeadName, origin: Origin) -> Origin:
    """Its loss, shape and schedule, the encoder, the matrix of its weights, and its starting point or its group."""
    other = _other_confusion_file(origin.get(f"losses.{name.loss}.counted_on"))
    matrix = other if f"file {other}" in origin else CONFUSION_FILE
    wanted = [*_INHERITED, "baseline.epochs", "subnets.", f"losses.{name.loss}.", "images of train"]
    wanted += ["file encoder.params", f"file {matrix}"]
    if not name.subnet:
        return _chosen(origin, *wanted, "subnet0.", f"file {HeadName(0, BASELINE).file}")
    groups = [] if name.spaces == "all" else [f"file {GROUPS_FILE}"]
    return _chosen(origin, *wanted, f"shapes.{name.shape}." if name.shape else "subnet.", *groups)


def _chosen(origin: Origin, *starts: str) -> Origin:
    return {key: value for key, value in origin.items() if key.startswith(starts)}
