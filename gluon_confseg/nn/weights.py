"""Parameters from files into networks.

A ResNet may come from our own encoder, from GluonCV's ResNet v1b classifier or in torchvision's layout. The last two
are the same network: both put the stride of a bottleneck into its 3x3 convolution, conv2 (gluoncv/model_zoo/
resnetv1b.py, BottleneckV1b; torchvision/models/resnet.py, Bottleneck, there called V1.5), with BatchNorm's epsilon at
1e-5; only the names of BatchNorm's parameters differ. Dilation changes no parameter.
"""

import contextlib
import logging
import os
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..backend import import_gluoncv, mx, settle
from ..errors import ConfsegError
from ..files import PathLike, atomic_path
from ..tensor_base import BFLOAT16, Tensors, Unreadable, joined, refusal, shown
from ..tensor_files import read_tensors

_SHOWN_NAMES = 8
_STORE_VARIABLE = "MXNET_GLUON_REPO"  # of GluonCV: where its model store is

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def whole_file(path: PathLike) -> Iterator[str]:
    """Yield a temporary name for MXNet to save arrays under; what it wrote is read back, and then renamed to `path`.

    Raises ConfsegError where the disk is full: MXNet does not look whether the last bytes, at closing, were written.
    """
    settle()
    with atomic_path(path) as temporary:
        try:
            yield str(temporary)
            read_tensors(temporary)  # not mx.nd.load, which ends the process where a file is cut short
        except (mx.MXNetError, ConfsegError) as error:
            raise ConfsegError(f"cannot write all of {path}; free space or choose another folder") from error


def load_parameters(block: mx.gluon.HybridBlock, path: PathLike, ctx: List[mx.Context]) -> None:
    """Fill `block` from a file of exactly its parameters; it may be uninitialised.

    Raises ConfsegError where the file is missing, damaged or of another network; `block` is then unchanged.
    """
    _fill(block, read_tensors(path), str(path), ctx, exact=True)


def load_weights(
    encoder: mx.gluon.HybridBlock,
    path: PathLike,
    ctx: List[mx.Context],
    *,
    other_parts: Optional[Dict[str, str]] = None,
) -> None:
    """Fill `encoder` from a file that may hold more than it: GluonCV's or torchvision's classifier, or our own.

    A classifier (fc.*) and num_batches_tracked are ignored, other names left over are logged as a warning.
    `other_parts`: beginnings of names that are not the encoder's, and whose they are, for the log. Raises ConfsegError
    where the file is missing or damaged, where a parameter of the encoder is not found, found twice, of another shape
    or not finite; the encoder is then unchanged.
    """
    tensors = read_tensors(path)
    for beginning, whose in (other_parts or {}).items():
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(beginning)}
        if len(kept) < len(tensors):
            _log.info("%s: %d arrays are %s (%s*)", path, len(tensors) - len(kept), whose, beginning)
        tensors = kept
    _fill(encoder, tensors, str(path), ctx, exact=False)


def load_part(block: mx.gluon.HybridBlock, tensors: Tensors, source: str, part: str, ctx: List[mx.Context]) -> bool:
    """Fill `block` from exactly those tensors whose names begin with `part`; False, and nothing, where there is none.

    Raises ConfsegError, naming `source`, where they are not exactly the block's.
    """
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(part)}
    if own:
        _fill(block, own, source, ctx, exact=True)
    return bool(own)


def load_imagenet(encoder: mx.gluon.HybridBlock, name: str, ctx: List[mx.Context]) -> None:
    """Fill `encoder` with GluonCV's ImageNet weights of the network `name`, from its cache or its model store.

    Raises ConfsegError where neither has them, saying which file to fetch, and for a store without TLS.
    """
    _require_tls()
    zoo = import_gluoncv().model_zoo
    try:
        network = zoo.get_model(name, pretrained=True, dilated=True)
    except Exception as error:  # GluonCV's downloader raises whatever its HTTP library does
        others = "a .pth or .safetensors file of this network in torchvision's layout, or to "
        raise _unreachable(name, error, others) from error
    settle()
    tensors = {key: value.list_data()[0].asnumpy() for key, value in network._collect_params_with_prefix().items()}
    _fill(encoder, tensors, f"GluonCV's {name}", ctx, exact=False)


def stored_file(name: str) -> PathLike:
    """The .params file of GluonCV's network `name`, from its cache or its model store.

    Raises ConfsegError where neither has it, saying which file to fetch, and for a store without TLS.
    """
    _require_tls()
    store = import_gluoncv().model_zoo.model_store
    if name not in store._model_sha1:
        raise ConfsegError(
            f"encoder.weights: GluonCV's model store has no weights of {name}; give a .params file of it, or null"
        )
    try:
        return store.get_model_file(name, tag=True)
    except Exception as error:  # GluonCV's downloader raises whatever its HTTP library does
        raise _unreachable(name, error) from error


def _require_tls() -> None:
    url = os.environ.get(_STORE_VARIABLE, "https:")
    if not url.lower().startswith("https:"):
        raise ConfsegError(f"encoder.weights: {_STORE_VARIABLE} is {url}; give a model store whose address is https://")


def _unreachable(name: str, error: Exception, others: str = "") -> ConfsegError:
    store = import_gluoncv().model_zoo.model_store
    file = f"{name}-{store.short_hash(name)}"
    url = store._url_format.format(repo_url=store.apache_repo_url, file_name=file)
    return ConfsegError(
        f"encoder.weights: GluonCV's model store cannot be reached for {name} ({type(error).__name__}); fetch "
        f"{file}.params (zipped at {url}) and set encoder.weights to this local .params file, or to {others}"
        "null for random weights"
    )


def _fill(block: mx.gluon.HybridBlock, tensors: Tensors, source: str, ctx: List[mx.Context], *, exact: bool) -> None:
    parameters = block._collect_params_with_prefix()
    try:
        found, left_over = _match(tensors, parameters)
        if not exact:
            left_over = [name for name in left_over if not _is_expected(name)]
        missing = [name for name in parameters if name not in found]
        if missing or (exact and left_over):
            _log.error("%s: not found: %s; left over: %s", source, joined(missing), joined(left_over))
            raise Unreadable(_explain_mismatch(missing, left_over, len(parameters)))
        values = {key: fitted_value(tensors[found[key]], found[key], parameters[key]) for key in parameters}
    except Unreadable as error:
        raise refusal(source, str(error)) from error
    if left_over:
        _log.warning("%s: %d names left over, not used: %s", source, len(left_over), joined(left_over))
    for key, parameter in parameters.items():
        parameter._load_init(mx.nd.array(values[key], dtype=parameter.dtype), ctx)


def _match(names: Iterable[str], parameters: Mapping[str, Any]) -> Tuple[Dict[str, str], List[str]]:
    """The name in the file of each parameter that is there, and the names that are no parameter's."""
    found: Dict[str, str] = {}
    left_over = []
    for name in names:
        key = _parameter_name(name, parameters)
        if key in found:
            raise Unreadable(f"{shown(name)} and {shown(found[key])} are both for the parameter {key}")
        if key in parameters:
            found[key] = name
        else:
            left_over.append(name)
    return found, left_over


def _parameter_name(name: str, parameters: Mapping[str, Any]) -> str:
    """Our name for a parameter in a file of ours, GluonCV's or torchvision's (there also under DataParallel)."""
    if name in parameters:
        return name
    module, _, leaf = (name[len("module.") :] if name.startswith("module.") else name).rpartition(".")
    first, dot, rest = module.partition(".")  # the rest is that of a deep stem
    module = {"conv1": "stem.0", "bn1": "stem.1"}.get(first, first) + dot + rest
    if f"{module}.gamma" in parameters:
        leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf)
    return f"{module}.{leaf}" if module else leaf


def _is_expected(name: str) -> bool:
    """Whether every classifier has this name, and no encoder."""
    return name.endswith(".num_batches_tracked") or name.split(".")[-2:] in (["fc", "weight"], ["fc", "bias"])


def _explain_mismatch(missing: Sequence[str], left_over: Sequence[str], count: int) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {count} parameters are not in it ({joined(missing, _SHOWN_NAMES)})")
    if left_over:
        parts.append(f"{len(left_over)} of its names are not in the network ({joined(left_over, _SHOWN_NAMES)})")
    return ", ".join(parts) + "; choose the file of this very network"


def fitted_value(tensor: np.ndarray, name: str, parameter: mx.gluon.Parameter) -> np.ndarray:
    """A tensor of a file as finite float32 of the parameter's shape; raises Unreadable where it is not."""
    shape = parameter.shape or tensor.shape
    fits = len(shape) == tensor.ndim and all(want in (0, have) for want, have in zip(shape, tensor.shape))
    if not fits:  # 0 stands for a size that is not settled yet
        raise Unreadable(f"{shown(name)} is {tensor.shape} in it and {shape} in the network")
    if tensor.dtype == BFLOAT16:
        tensor = (tensor["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    elif tensor.dtype.kind != "f":
        raise Unreadable(f"{shown(name)} is of type {tensor.dtype}, not of a floating point type")
    with np.errstate(over="ignore", invalid="ignore"):
        tensor = tensor.astype(np.float32, copy=False)
    if not np.isfinite(tensor).all():
        raise Unreadable(f"{shown(name)} holds values that are not finite")
    return tensor
