"""Fusion of subnets with different output spaces into scores of all classes (paper section 3.3, figure 3)."""

from typing import Optional, Sequence

import numpy as np

from ..backend import mx
from ..confusion import group_mapping
from ..errors import ConfsegError
from ..groups import OutputSpace

RULES = ("sum", "product")
OTHERS = ("copy", "divide", "proportional")
_SMALLEST = 1e-30  # keeps log finite where float32 softmax has underflowed to 0


class Fusion(mx.gluon.HybridBlock):
    """Softmax of each subnet, carried into the space of all classes, combined: log-scores (N, K, h, w).

    Parameters
    ----------
    groups : the class groups of subnets 1..M; None for one that has all classes, as subnet 0
    num_classes : K
    rule : "sum" (log of the mean probability) or "product" (mean of the log-probabilities)
    others : what the classes outside a group receive of its "others" probability: "copy" (all of it: the paper),
        "divide" (equal parts) or "proportional" (parts in proportion to subnet 0's own probabilities)
    class_frequency : (K,) relative frequencies of the classes; where given, each subnet's logits are adjusted by
        - adjustment * log(frequency), with the frequencies of a group's outside classes added up (logit adjustment,
        Menon et al. 2021)
    adjustment : strength of that

    Called with the logits of subnet 0 (N, K, h, w) and of subnets 1..M (N, |G_m| + 1, h, w).
    With no groups the scores are subnet 0's log-probabilities (under the sum rule, not below log 1e-30).
    """

    def __init__(
        self,
        groups: Sequence[OutputSpace],
        num_classes: int,
        *,
        rule: str = "sum",
        others: str = "copy",
        class_frequency: Optional[Sequence[float]] = None,
        adjustment: float = 0.0,
    ):
        super().__init__()
        if rule not in RULES:
            raise ConfsegError(f"fusion rule: {rule!r} is none of {', '.join(RULES)}")
        if others not in OTHERS:
            raise ConfsegError(f"fusion others: {others!r} is none of {', '.join(OTHERS)}")
        if adjustment and class_frequency is None:
            raise ConfsegError("fusion adjustment: wants class_frequency, the classes' relative frequencies")
        if class_frequency is not None and len(class_frequency) != num_classes:
            raise ConfsegError(f"fusion class_frequency: wants {num_classes} numbers, got {len(class_frequency)}")
        self._rule, self._others, self._adjusted = rule, others, bool(adjustment)
        everything = np.arange(num_classes)
        outputs = [everything] + [everything if g is None else group_mapping(g, num_classes) for g in groups]
        self._subnets = len(outputs)
        with self.name_scope():
            for index, output in enumerate(outputs):
                if index:  # subnet 0 is in the space of all classes already
                    self._constant(f"output{index}", output)
                if self._adjusted:
                    frequency = np.bincount(output, weights=np.asarray(class_frequency, float))
                    shift = adjustment * np.log(np.maximum(frequency, 1e-6))
                    self._constant(f"shift{index}", shift[None, :, None, None])
                if index and groups[index - 1] is not None and others != "copy":
                    outside = (output == 0)[None, :, None, None]
                    share = np.where(outside, 1 / max(outside.sum(), 1), 1.0) if others == "divide" else outside
                    self._constant(f"share{index}", share)

    def _constant(self, name: str, value: np.ndarray) -> None:
        setattr(self, name, self.params.get_constant(name, value.astype("float32")))

    def hybrid_forward(self, F, *logits, **constants):
        if len(logits) != self._subnets:
            raise ConfsegError(f"fusion: wants the logits of {self._subnets} subnets, got {len(logits)}")
        if self._adjusted:
            logits = [F.broadcast_sub(x, constants[f"shift{i}"]) for i, x in enumerate(logits)]
        if self._rule == "product" and self._others == "copy":  # stays in logs: nothing can underflow
            carried = [F.log_softmax(logits[0], axis=1)]
            for i in range(1, self._subnets):
                carried.append(F.take(F.log_softmax(logits[i], axis=1), constants[f"output{i}"], axis=1))
            return F.add_n(*carried) / self._subnets
        first = F.softmax(logits[0], axis=1)
        carried = [first]
        for i in range(1, self._subnets):
            carried.append(self._carry(F, logits[i], first, i, constants))
        if self._rule == "sum":
            return F.log(F.maximum(F.add_n(*carried) / self._subnets, F.ones_like(first) * _SMALLEST))
        return F.add_n(*[F.log(F.maximum(p, F.ones_like(p) * _SMALLEST)) for p in carried]) / self._subnets

    def _carry(self, F, logits, first, index, constants):
        """Softmax over |G| + 1 outputs -> (N, K, h, w): one-to-one inside the group, one-to-many outside."""
        carried = F.take(F.softmax(logits, axis=1), constants[f"output{index}"], axis=1)
        if f"share{index}" not in constants:
            return carried
        share = constants[f"share{index}"]
        if self._others == "proportional":
            outside = F.broadcast_mul(first, share)
            total = F.maximum(
                F.sum(outside, axis=1, keepdims=True), F.ones_like(F.sum(outside, axis=1, keepdims=True)) * _SMALLEST
            )
            inside = F.broadcast_sub(F.ones_like(first), F.broadcast_mul(F.ones_like(first), share))
            return carried * (inside + F.broadcast_div(outside, total))
        return F.broadcast_mul(carried, share)
