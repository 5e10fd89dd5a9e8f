"""Counting one label map: ConfusionMatrix.update against GluonCV's SegmentationMetric.update, on the same labels.

    OMP_NUM_THREADS=1 python tools/benchmarks/confusion_update.py [--size 1024x2048] [--repeats 9]

GluonCV's metric takes scores and finds the largest itself; the time of that arg max alone is a case of its own, since
ours is given labels. Wanted: 30 times as fast as the metric, without its arg max, on one thread.
"""

import click
import numpy as np
from alternating import measure, ratio, table

from gluon_confseg.backend import import_gluoncv, mx
from gluon_confseg.confusion import ConfusionMatrix
from gluon_confseg.options import parse_size

CLASSES = 19
OURS, METRIC, ARG_MAX = "ConfusionMatrix.update", "SegmentationMetric.update", "its arg max alone"


@click.command()
@click.option("--size", default="1024x2048", show_default=True)
@click.option("--repeats", default=9, show_default=True)
def main(size: str, repeats: int) -> None:
    height, width = parse_size(size)
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, (height, width)).astype("uint8")
    prediction = np.where(rng.random(label.shape) < 0.8, label, rng.integers(0, CLASSES, label.shape)).astype("uint8")
    scores = mx.nd.one_hot(mx.nd.array(prediction[None]), CLASSES).transpose((0, 3, 1, 2))
    truth = mx.nd.array(label[None].astype("int64"), dtype="int64")
    mx.nd.waitall()
    import_gluoncv()
    from gluoncv.utils.metrics.segmentation import SegmentationMetric  # after the line above, which makes it importable

    matrix, metric = ConfusionMatrix(CLASSES), SegmentationMetric(CLASSES)
    cases = {
        OURS: lambda: matrix.update(label, prediction),
        METRIC: lambda: metric.update(truth, scores),
        ARG_MAX: lambda: mx.nd.argmax(scores, 1).asnumpy(),
    }
    seconds = measure(cases, repeats)
    if abs(matrix.mean_iou() - metric.get()[1]) > 1e-6:
        raise SystemExit(f"the two disagree: mIoU {matrix.mean_iou()} and {metric.get()[1]}")
    print(f"{size}, {CLASSES} classes; both give mIoU {100 * matrix.mean_iou():.4f} %\n")
    print(table(seconds, OURS))
    times = ratio(seconds, METRIC, OURS) - ratio(seconds, ARG_MAX, OURS)
    print(f"\nwithout its arg max the metric takes {times:.1f} times as long (wanted: 30)")


if __name__ == "__main__":
    main()
