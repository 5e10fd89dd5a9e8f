"""A training step on the CPU against the same network in PyTorch: ours and theirs in processes that take turns.

    python -m venv TORCH && TORCH/bin/pip install torch==2.13.0
    python tools/benchmarks/pytorch.py small --torch TORCH/bin/python --threads 1
    python tools/benchmarks/pytorch.py resnet101 --torch TORCH/bin/python --threads 2 --repeats 5

small: the small encoder and subnet 0 of the camvid config, 8 crops of 144x192. resnet101: ResNet-101 at stride 8 with
frozen statistics and the cityscapes config's subnet 0, 2 crops of 160x160. Cross-entropy of scores upsampled to the
crop, SGD with momentum, all parameters trained, random images. PyTorch runs in both of its memory formats. Wanted: a
step takes at most as long as PyTorch's. An environment of its own, because GluonCV refuses PyTorch beside it.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

import click
from alternating import measure, ratio, table

OURS, PLAIN, CHANNELS_LAST = "gluon_confseg", "PyTorch", "PyTorch, channels last"
INSTALL = "python -m venv TORCH && TORCH/bin/pip install torch==2.13.0, and --torch TORCH/bin/python"


class Stepper:
    """A process that takes a step whenever it is told to; `parameters` is how many numbers it trains."""

    def __init__(self, command: List[str], threads: int):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        self.parameters = int(self._answer().split()[1])

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended with code {self._process.wait()}")
        return line

    def step(self) -> None:
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self._answer()

    def close(self) -> None:
        self._process.communicate()


def our_step(name: str, side: Optional[Tuple[int, int]] = None) -> Tuple[Callable[[], None], int]:
    """One step of training.step, waited for, and how many parameters it trains; `side`: another crop."""
    import numpy as np

    from gluon_confseg import training
    from gluon_confseg.backend import mx
    from gluon_confseg.building import label_table
    from gluon_confseg.config_schedules import Schedule
    from gluon_confseg.data.loader import Batch
    from gluon_confseg.heads import Head, HeadLoss, Trunk, make_trainer
    from gluon_confseg.nn import PixelCrossEntropy, Subnet, get_encoder

    batch, crop, classes, encoder_name, frozen, shape = {
        "small": (8, (144, 192), 11, "small", False, {"hidden": 1, "channels": 128, "dilation": 4}),
        "resnet101": (2, (160, 160), 19, "resnet101_v1b", True, {"hidden": 2, "channels": 512, "dilation": 12}),
    }[name]
    crop = side or crop
    encoder = get_encoder(encoder_name, frozen_batchnorm=frozen)
    encoder.hybridize(static_alloc=True)
    subnet = Subnet(classes, **shape)
    subnet.initialize(mx.init.MSRAPrelu(slope=0))
    loss = PixelCrossEntropy(classes)
    block = HeadLoss(subnet, loss, encoder.output_stride)
    loss.initialize()
    subnet(*subnet.inputs(encoder(mx.nd.zeros((1, 3, 32, 32)))))
    block.hybridize(static_alloc=True)
    schedule = Schedule(batch_size=batch)
    trunk = Trunk(encoder, make_trainer(encoder, schedule), 1e-4)
    head = Head("subnet0", block, make_trainer(subnet, schedule), 1e-4, label_table(np.arange(classes)), 1)
    for trainer in (trunk.trainer, head.trainer):
        trainer.set_learning_rate(1e-4)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, 3, *crop)).astype("float32")
    labels = rng.integers(0, classes, (batch, *crop)).astype("uint8")
    data = Batch(images, labels, [str(number) for number in range(batch)])

    def run() -> None:
        training.step(data, trunk, [head], [mx.cpu()], schedule)
        mx.nd.waitall()

    run()
    trained = {**encoder.collect_params(), **subnet.collect_params()}.values()
    return run, sum(parameter.data().size for parameter in trained if parameter.grad_req != "null")


def serve(name: str) -> None:
    run, parameters = our_step(name)
    print("ready", parameters, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        print(time.perf_counter() - started, flush=True)


@click.command()
@click.argument("name", type=click.Choice(["small", "resnet101"]), default="small")
@click.option("--torch", default=sys.executable, help="An interpreter with PyTorch 2.13.")
@click.option("--threads", default=1, show_default=True)
@click.option("--repeats", default=9, show_default=True)
@click.option("--serve", "serves", is_flag=True, hidden=True)
def main(name: str, torch: str, threads: int, repeats: int, serves: bool) -> None:
    if serves:
        serve(name)
        return
    asked = [torch, "-c", "import torch; print(torch.__version__)"]
    try:
        version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        print(f"{torch} has no PyTorch to compare with: {INSTALL}", file=sys.stderr)
        sys.exit(2)
    theirs = [torch, str(Path(__file__).with_name("pytorch_step.py")), name]
    commands = {OURS: [sys.executable, __file__, name, "--serve"], PLAIN: [*theirs, "0"], CHANNELS_LAST: [*theirs, "1"]}
    steppers: Dict[str, Stepper] = {}
    try:
        for key, command in commands.items():
            steppers[key] = Stepper(command, threads)
        trained = {key: stepper.parameters for key, stepper in steppers.items()}
        if len(set(trained.values())) > 1:
            raise SystemExit(f"not the same network: {trained} trained parameters")
        seconds = measure({key: stepper.step for key, stepper in steppers.items()}, repeats)
    finally:
        for stepper in steppers.values():
            stepper.close()
    print(f"{name}, {trained[OURS]} trained parameters, {threads} threads, PyTorch {version}; seconds a step\n")
    print(table(seconds, OURS))
    for other in (PLAIN, CHANNELS_LAST):
        print(f"{other} takes {ratio(seconds, other, OURS):.2f} times as long (wanted: at least 1)")


if __name__ == "__main__":
    main()
