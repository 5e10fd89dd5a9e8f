"""One training step of the benchmarked networks in PyTorch: run by pytorch.py, with an interpreter that has PyTorch.

    python pytorch_step.py small|resnet101 CHANNELS_LAST(0|1)

Prints "ready" and the number of trained parameters; then, for every line it reads, takes a step and prints its seconds.
"""

import sys
import time

import torch
from torch import nn

SETTINGS = {  # images, height, width, classes: as in pytorch.py
    "small": (8, 144, 192, 11),
    "resnet101": (2, 160, 160, 19),
}


def convolution(channels, out, kernel=3, stride=1, dilation=1, relu=True):
    padding = dilation * (kernel - 1) // 2
    layers = [nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Residual(nn.Module):
    def __init__(self, body, shortcut=None):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return torch.relu(self.body(x) + (x if self.shortcut is None else self.shortcut(x)))


def basic(channels, out, stride, dilation):
    body = nn.Sequential(
        convolution(channels, out, stride=stride, dilation=dilation),
        convolution(out, out, dilation=dilation, relu=False),
    )
    changes = stride != 1 or channels != out
    return Residual(body, convolution(channels, out, 1, stride, relu=False) if changes else None)


def bottleneck(channels, planes, stride, dilation, projected):
    body = nn.Sequential(
        convolution(channels, planes, 1),
        convolution(planes, planes, 3, stride, dilation),
        convolution(planes, 4 * planes, 1, relu=False),
    )
    return Residual(body, convolution(channels, 4 * planes, 1, stride, relu=False) if projected else None)


def small():
    blocks = ((32, 32, 1, 1), (32, 64, 2, 1), (64, 64, 1, 1), (64, 128, 1, 2), (128, 128, 1, 2), (128, 128, 1, 4))
    return nn.Sequential(convolution(3, 24, stride=2), convolution(24, 32, stride=2), *(basic(*b) for b in blocks))


def resnet101():
    """Stride 8: the strides of blocks 3 and 4 are dilations."""
    layers = [convolution(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for planes, count, stride, first, dilation in (
        (64, 3, 1, 1, 1),
        (128, 4, 2, 1, 1),
        (256, 23, 1, 1, 2),
        (512, 3, 1, 2, 4),
    ):
        for number in range(count):
            options = (stride, first, True) if number == 0 else (1, dilation, False)
            layers.append(bottleneck(channels, planes, *options))
            channels = 4 * planes
    return nn.Sequential(*layers)


def head(channels, width, hidden, dilation, classes):
    layers = []
    for _ in range(hidden):
        layers += [nn.Conv2d(channels, width, 3, 1, dilation, dilation), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, classes, 3, 1, dilation, dilation))


def main():
    name, channels_last = sys.argv[1], sys.argv[2] == "1"
    batch, height, width, classes = SETTINGS[name]
    if name == "small":
        network = nn.Sequential(small(), head(128, 128, 1, 4, classes))
    else:
        network = nn.Sequential(resnet101(), head(2048, 512, 2, 12, classes))
    network.train()
    if name == "resnet101":  # frozen statistics, as the config has it
        for block in network.modules():
            if isinstance(block, nn.BatchNorm2d):
                block.eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(batch, 3, height, width).contiguous(memory_format=layout)
    labels = torch.randint(0, classes, (batch, height, width))
    print("ready", sum(parameter.numel() for parameter in network.parameters()), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        scores = network(images)
        scores = nn.functional.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
        loss = nn.functional.cross_entropy(scores, labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
