"""Mixed precision: a network's convolutions in float16 (GPU) or bfloat16 (CPU) over its float32 parameters.

`mx.contrib.amp.init()` is not used: it patches the operators of the whole process, and so would cast the convolutions
that the losses and `Upsample` are made of. Here one block's graph is converted, and everything outside stays float32.
"""

from dataclasses import dataclass
from typing import Sequence

from .backend import mx
from .cuda import query_driver
from .errors import ConfsegError

amp, nd = mx.contrib.amp, mx.nd

# In half precision: convolutions and what only passes their outputs on. Resizing is float32, as are the parameters,
# statistics and arithmetic of BatchNorm, whose input and output may be half (MXNet's and cuDNN's own way).
_HALF = ["Convolution", "FullyConnected"]
_RESIZES = ["Deconvolution", "UpSampling", "_contrib_BilinearResize2D", "BilinearSampler"]
_FIRST_WITH_FLOAT16 = (5, 3)  # compute capability
_CHUNK = 200  # arrays that one multi_all_finite takes


@dataclass
class LossScale:
    """The factor on a loss that keeps small gradients from vanishing in float16 (Micikevicius et al. 2018).

    Halved when gradients overflow, doubled after `patience` updates without; always a power of 2, so that it changes
    no digit. `steady` counts the updates since the last change.
    """

    value: float = 2.0**16
    steady: int = 0
    patience: int = 2000

    def record(self, finite: bool) -> None:
        """Take note of an update whose gradients were finite, or was left out because they were not."""
        self.steady = self.steady + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.steady == self.patience:
            self.value, self.steady = min(2 * self.value, 2.0**24), 0


def half_type(devices: Sequence[mx.Context]) -> str:
    """ "float16" for GPUs, "bfloat16" for CPUs; ConfsegError where a device cannot train with it."""
    kinds = {device.device_type for device in devices}
    if kinds == {"gpu"}:
        found = query_driver().gpus
        for name, capability in (found[device.device_id] for device in devices if device.device_id < len(found)):
            if capability < _FIRST_WITH_FLOAT16:
                raise ConfsegError(f"amp: {name} (compute capability {capability[0]}.{capability[1]}) has no float16")
        return "float16"
    if kinds != {"cpu"}:
        raise ConfsegError("amp: wants GPUs or CPUs, not both; choose other devices, or set amp: false")
    bfloat16 = amp.amp.bfloat16  # NumPy has no name for it
    try:  # MXNet has no float16 convolution on CPUs; oneDNN has one in bfloat16 where there is AVX-512
        image, kernel = (nd.amp_cast(nd.ones(shape), dtype=bfloat16) for shape in ((1, 16, 4, 4), (16, 16, 1, 1)))
        nd.Convolution(image, kernel, kernel=(1, 1), num_filter=16, no_bias=True).wait_to_read()
    except mx.MXNetError:
        raise ConfsegError("amp: this CPU has no bfloat16 (it wants AVX-512); set amp: false") from None
    return "bfloat16"


def to_half(block: mx.gluon.HybridBlock, num_inputs: int, dtype: str) -> mx.gluon.SymbolBlock:
    """`block` with its convolutions in `dtype` ("float16" or "bfloat16"), over the same Parameters.

    Inputs (`num_inputs` arrays), outputs and gradients of the parameters are float32; the outputs come as a list where
    the block gives several.
    """
    lists = amp.lists.symbol_fp16 if dtype == "float16" else amp.lists.symbol_bf16
    inputs = [mx.sym.var(f"input{index}", dtype="float32") for index in range(num_inputs)]
    outputs = block(*inputs)
    graph = amp.convert_symbol(
        mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs,
        dtype,
        target_dtype_ops=_HALF,
        fp32_ops=sorted({*lists.FP32_FUNCS, *_RESIZES}),
        data_names=[symbol.name for symbol in inputs],
        cast_optional_params=False,  # parameters stay float32: the cast is in the graph
    )
    return mx.gluon.SymbolBlock(graph, inputs, params=block.collect_params())


def all_finite(arrays: Sequence[nd.NDArray]) -> bool:
    """Whether every value of arrays on one device is finite."""
    chunks = [arrays[start : start + _CHUNK] for start in range(0, len(arrays), _CHUNK)]
    flags = [nd.multi_all_finite(*chunk, num_arrays=len(chunk)) for chunk in chunks]
    return all(flag.asscalar() for flag in flags)
