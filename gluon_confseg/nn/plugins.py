"""Encoders that users add: what they registered, and whether it keeps the protocol of encoders.py."""

import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Optional, Tuple

from ..backend import mx, settle
from ..errors import ConfsegError
from ..files import PathLike, sha256

_MODULE = "confseg_plugin"
_CHECK_SIZE = (65, 97)  # height, width: divisible by no output stride but 1


@dataclass
class _Registered:
    factory: Callable[[], mx.gluon.HybridBlock]
    digest: Optional[str] = None  # of the plugin's file


_encoders: Dict[str, _Registered] = {}  # of the process: filled by plugins before a verb starts, and not afterwards


def register_encoder(name: str, factory: Callable[[], mx.gluon.HybridBlock]) -> None:
    """Let `encoder: {name: NAME}` in a config mean what `factory()` gives (see encoders.py for what that must be).

    Raises ConfsegError for a name that is taken and a factory that cannot be called.
    """
    from .encoders import ENCODERS  # which imports this file

    if name in ENCODERS or name in _encoders:
        raise ConfsegError(f"register_encoder: the name {name!r} is taken; choose another")
    if not callable(factory):
        raise ConfsegError(f"register_encoder: the factory of {name!r} cannot be called; give a class or a function")
    _encoders[name] = _Registered(factory)


def registered() -> Tuple[str, ...]:
    """Names of the encoders that were registered."""
    return tuple(_encoders)


def encoder_digest(name: str) -> Optional[str]:
    """SHA-256 of the plugin file that registered an encoder; None for one that no file registered."""
    return _encoders[name].digest if name in _encoders else None


def run_plugin(path: PathLike) -> None:
    """Run a Python file, which registers one or more encoders.

    Raises ConfsegError where it is missing, fails (naming its line) or registers nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfsegError(f"--plugin {path}: there is no such file")
    before = set(_encoders)
    spec = importlib.util.spec_from_file_location(f"{_MODULE}{len(_encoders)}", path)
    if spec is None or spec.loader is None:
        raise ConfsegError(f"--plugin {path}: is no Python file; its name wants to end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where classes look for the module that they are in
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's code raises
        raise ConfsegError(f"--plugin {path}: {_told(error, path)}") from error
    new = set(_encoders) - before
    if not new:
        raise ConfsegError(f"--plugin {path}: registers no encoder; let it call gluon_confseg.nn.register_encoder")
    for name in new:
        _encoders[name].digest = sha256(path)


def make(name: str) -> mx.gluon.HybridBlock:
    """What the registered factory gives, not initialised by us. Raises ConfsegError where that is no encoder."""
    try:
        encoder = _encoders[name].factory()
    except Exception as error:  # whatever a user's code raises
        raise ConfsegError(f"encoder {name!r}: its factory fails: {_told(error)}") from error
    if not isinstance(encoder, mx.gluon.HybridBlock):
        raise ConfsegError(f"encoder {name!r}: its factory gives a {type(encoder).__name__}, not a HybridBlock")
    for attribute in ("output_stride", "stages"):
        value = getattr(encoder, attribute, None)
        if type(value) is not int or value < 1:
            raise ConfsegError(f"encoder {name!r}: its attribute {attribute} is {value!r}, not a positive integer")
    return encoder


def check(name: str, encoder: mx.gluon.HybridBlock, ctx: mx.Context) -> None:
    """Run a registered encoder, initialised, and its head; ConfsegError where they do not keep the protocol."""
    image = mx.nd.zeros((1, 3, *_CHECK_SIZE), ctx=ctx)
    size = tuple(-(-side // encoder.output_stride) for side in _CHECK_SIZE)
    try:
        features = encoder(image)
        settle()
        if not isinstance(features, (tuple, list)) or len(features) != encoder.stages:
            raise ConfsegError(f"gives no tuple of {encoder.stages} feature maps, which its attribute stages promises")
        if features[-1].ndim != 4 or features[-1].shape[2:] != size:
            raise ConfsegError(
                f"gives a last feature map of shape {features[-1].shape} for an image of shape {image.shape}; its "
                f"output_stride, {encoder.output_stride}, promises height and width {size}"
            )
        if hasattr(encoder, "new_head"):
            _check_head(encoder.new_head(3), features, ctx)
    except ConfsegError as error:
        raise ConfsegError(f"encoder {name!r}: {error}") from None
    except Exception as error:  # whatever a user's code raises
        raise ConfsegError(f"encoder {name!r}: fails on an image of shape {image.shape}: {_told(error)}") from error


def _check_head(head: mx.gluon.HybridBlock, features: Tuple[mx.nd.NDArray, ...], ctx: mx.Context) -> None:
    if not isinstance(head, mx.gluon.HybridBlock) or getattr(head, "num_outputs", None) != 3:
        raise ConfsegError("its new_head(3) gives no HybridBlock with num_outputs 3")
    if not callable(getattr(head, "inputs", None)):
        raise ConfsegError("its new_head(3) gives a block without the method inputs(features)")
    head.initialize(ctx=ctx)
    logits = head(*head.inputs(features))
    wanted = (1, 3, *features[-1].shape[2:])
    if getattr(logits, "shape", None) != wanted:
        raise ConfsegError(f"the head of new_head(3) gives {getattr(logits, 'shape', type(logits))}, not {wanted}")
    settle()


def _told(error: Exception, path: Optional[Path] = None) -> str:
    """An exception in one line, with the line of `path`, or else the last line, that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if path is None or Path(frame.filename) == path]
    line = error.lineno if isinstance(error, SyntaxError) else own[-1].lineno if own and path else None
    where = f"line {line}: " if line else ""
    return f"{where}{type(error).__name__}: {' '.join(str(error).split())}"
