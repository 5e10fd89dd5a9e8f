"""The numbers printed in Geng, Huang, Zhou and Yang (2018): validation mIoU in percent, and the paper's own slips.

Table 1, the groups, is in `labels`: LabelSet.named_groups["paper"].
"""

from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Tuple

from .errors import ConfsegError


@dataclass(frozen=True)
class PaperTable:
    """One of Tables 3 to 5.

    `cells`: mIoU in percent by the cell keys of results.json; `slips`: what to name where the numbers are shown.
    """

    title: str
    cells: Mapping[str, float]
    slips: Tuple[str, ...] = ()


@dataclass(frozen=True)
class OtherMethod:
    """A row of Table 2, Cityscapes validation, mIoU in percent; None where the paper prints a dash.

    category: the problem its authors claim to solve: I = imbalanced data, F = feature extraction, B = batch
    normalisation; None = the paper's own row. The plain text of the paper says how many ticks (ASPP, CRF, multi-scale)
    a row has, not in which columns: one is read as ASPP, two as ASPP + CRF for DeepLabV2, as CRF + multi-scale for GCN.
    """

    category: Optional[str]
    model: str
    output_stride: int
    techniques: Tuple[str, ...]
    baseline: str
    baseline_miou: Optional[float]
    improved_miou: float

    @property
    def gain(self) -> Optional[float]:
        """Points of mIoU over the baseline, as the paper prints them; None where it prints a dash."""
        return None if self.baseline_miou is None else round(self.improved_miou - self.baseline_miou, 2)


SLIPS: Mapping[str, str] = {
    "resnet101": "the paper's text (section 4.1) puts its ResNet-101 1.03 above others' 73.63; 74.70 - 73.63 is 1.07",
    "voc": "the paper's text (section 4.2) gives 75.51 with subnet 1 on VOC; its Table 5 prints 76.51",
    "loss": "the paper's Eq. 2 and 3 print the sign of the second term opposite to its gradient, Eq. 4; Eq. 4 is right",
}

CELL_TITLES: Mapping[str, str] = {
    "subnet0_ce": "subnet 0, CE (baseline)",
    "subnets_ce": "subnets, CE",
    "subnet0_new": "subnet 0, new loss",
    "subnets_new": "subnets, new loss",
}

TABLE2: Tuple[OtherMethod, ...] = (
    OtherMethod("I", "LMP", 8, ("ASPP",), "DeepLabV2", 73.63, 75.06),
    OtherMethod("I", "FCRNs", 8, (), "ResNet-101", 68.58, 71.16),
    OtherMethod("I", "FCRNs", 8, (), "ResNet-152", 69.69, 71.51),
    OtherMethod("F", "DeepLabV2", 16, ("ASPP",), "ResNet-101", 66.6, 71.0),
    OtherMethod("F", "DeepLabV2", 16, ("ASPP", "CRF"), "ResNet-101", 66.6, 71.4),
    OtherMethod("F", "GCN", 8, (), "ResNet-152", None, 76.9),
    OtherMethod("F", "GCN", 8, ("CRF", "multi-scale"), "ResNet-152", None, 77.4),
    OtherMethod("F", "ResNet38", 8, (), "ResNet-38", None, 77.86),
    OtherMethod("B", "I-ABN 101", 8, (), "ResNeXt-101", 74.42, 77.58),
    OtherMethod("B", "I-ABN 152", 8, (), "I-ABN 101", 77.58, 78.49),
    OtherMethod(None, "paper", 8, (), "ResNet-101", 74.70, 77.75),
)

TABLES: Dict[str, PaperTable] = {
    "table3_resnet101_cityscapes": PaperTable(
        "Table 3, ResNet-101, Cityscapes val",
        {"subnet0_ce": 74.70, "subnets_ce": 75.55, "subnet0_new": 76.21, "subnets_new": 77.75},
        (SLIPS["resnet101"],),
    ),
    "table4_resnet38_cityscapes": PaperTable(
        "Table 4, ResNet-38, Cityscapes val", {"subnet0_ce": 78.08, "subnets_ce": 79.07, "subnet0_new": 79.38}
    ),
    "table5_resnet101_voc": PaperTable(
        "Table 5, ResNet-101, PASCAL VOC 2012 val",
        {"subnet0_ce": 75.43, "subnets_ce": 76.51, "subnets_new": 76.91},
        (SLIPS["voc"],),
    ),
}


def table(name: str) -> PaperTable:
    """One of TABLES by its key; ConfsegError lists the keys."""
    if name not in TABLES:
        raise ConfsegError(f"the paper has no table {name!r}; use one of {', '.join(TABLES)}")
    return TABLES[name]
