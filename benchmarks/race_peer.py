"""The peer of `race.py`: airbench94_muon in PyTorch, with its published settings.

`race.py` starts this file in the environment of `make bench-peers`. It imports nothing of the
project. The recipe is Keller Jordan's (https://github.com/KellerJordan/cifar10-airbench,
2024), told in our own words:

- a frozen 2x2 convolution that whitens the patches of 5,000 training images; its bias is
  trained for the first 3 of 8 epochs;
- three groups of two 3x3 convolutions, a global max pool, a head without a bias;
- Muon on the 3x3 kernels, Nesterov SGD on the biases and the head, all rates linear to 0;
- batches of 2,000, label smoothing 0.2, crops of the image padded by 2, and alternating flip;
- at the test the mean of six views.

What differs from a GPU's version: float32 for float16, and the JPEGs are read from a folder of
class folders. Images are decoded once, before the clock of training starts.

    python benchmarks/race_peer.py --data cifar10 --seed 0
    python benchmarks/race_peer.py --steps 32,24,16     images a second of one training step
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

MEAN, STD = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)  # of CIFAR-10, 0 to 255
WHITENING_IMAGES, WHITENING_EPOCHS, WHITENING_EPSILON = 5000, 3, 5e-4
BIAS_RATE, HEAD_RATE, SGD_MOMENTUM, DECAY_PER_IMAGE = 0.053, 0.67, 0.85, 2e-6
MUON_RATE, MUON_MOMENTUM, NEWTON_SCHULZ_STEPS = 0.24, 0.6, 3
SMOOTHING, PADDING = 0.2, 2


class Convolution(nn.Conv2d):
    """3x3, without a bias; its first filters pass their input on."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding="same", bias=False)
        nn.init.dirac_(self.weight.data[:inputs])


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad = False
    return layer


def group(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        Convolution(inputs, outputs),
        nn.MaxPool2d(2),
        norm(outputs),
        nn.GELU(),
        Convolution(outputs, outputs),
        norm(outputs),
        nn.GELU(),
    )


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad = False
        self.groups = nn.Sequential(group(24, 64), group(64, 256), group(256, 256))
        self.head = nn.Linear(256, 10, bias=False)
        self.head.weight.data /= self.head.weight.data.std()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.groups(functional.gelu(self.whitening(images)))
        return self.head(features.amax((2, 3))) / 256

    def whiten(self, images: torch.Tensor) -> None:
        """Sets the whitening kernel from the 2x2 patches of normalised images."""
        patches = functional.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        kernel = (vectors / torch.sqrt(values + WHITENING_EPSILON)).T.reshape(-1, 3, 2, 2)
        self.whitening.weight.data = torch.cat((kernel, -kernel))


def orthogonal(gradient: torch.Tensor) -> torch.Tensor:
    """The matrix next to the gradient whose singular values are near 1 (Newton-Schulz)."""
    x = gradient / (gradient.norm() + 1e-7)
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    for _ in range(NEWTON_SCHULZ_STEPS):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters: Any):
        super().__init__(parameters, {"lr": MUON_RATE})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(MUON_MOMENTUM).add_(p.grad)
                update = p.grad.add(velocity, alpha=MUON_MOMENTUM)
                p.mul_(len(p) ** 0.5 / p.norm())
                p.add_(orthogonal(update.reshape(len(p), -1)).view(p.shape), alpha=-group["lr"])


def optimizers(net: Network, batch_size: int) -> tuple[torch.optim.SGD, Muon]:
    """SGD for the biases and the head, and Muon for the kernels."""
    decay = DECAY_PER_IMAGE * batch_size
    biases = [p for p in net.groups.parameters() if p.requires_grad and p.ndim == 1]
    groups = [
        ([net.whitening.bias], BIAS_RATE),
        (biases, BIAS_RATE),
        ([net.head.weight], HEAD_RATE),
    ]
    settings = [{"params": p, "lr": rate, "weight_decay": decay / rate} for p, rate in groups]
    sgd = torch.optim.SGD(settings, momentum=SGD_MOMENTUM, nesterov=True)
    muon = Muon([p for p in net.groups.parameters() if p.ndim == 4])
    for parameters in (*sgd.param_groups, *muon.param_groups):
        parameters["initial"] = parameters["lr"]
    return sgd, muon


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 images at another size: bilinear, antialiased."""
    if images.shape[-1] == size:
        return images
    small = functional.interpolate(
        images.float(), size=(size, size), mode="bilinear", antialias=True
    )
    return small.round().clamp(0, 255).to(torch.uint8)


def crops(padded: torch.Tensor, size: int, flip: torch.Tensor) -> torch.Tensor:
    """A random crop of each padded image, mirrored where `flip` says so."""
    count, room = len(padded), padded.shape[-1] - size + 1
    rows = torch.randint(room, (count, 1)) + torch.arange(size)
    columns = torch.randint(room, (count, 1)) + torch.arange(size)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(3)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def batches(
    images: torch.Tensor, labels: torch.Tensor, phases: list[tuple[float, int]], batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Augmented batches of all phases."""
    first_flip, epoch = torch.rand(len(images)) < 0.5, 0
    for epochs, size in phases:
        scaled = resized(images, size).float()
        pad = max(1, round(PADDING * size / images.shape[-1]))
        padded = functional.pad(scaled, (pad,) * 4, mode="reflect").to(torch.uint8)
        left = round(epochs * (len(images) // batch_size))
        while left:
            order = torch.randperm(len(images)).split(batch_size)
            for own in order[: min(left, len(images) // batch_size)]:
                flip = first_flip[own] ^ (epoch % 2 == 1)
                yield normalised(crops(padded[own], size, flip)), labels[own]
                left -= 1
            epoch += 1


def loss_of(net: Network, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(net(images), labels, label_smoothing=SMOOTHING, reduction="sum")


@torch.no_grad()
def accuracy(net: Network, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """In percent, of one plain view and of six: the image and two crops that are shifted by a
    pixel, each also mirrored, with weights of 1/2, 1/4 and 1/4."""
    net.eval()
    right = torch.zeros(2)

    def both(x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return net(x) + net(x.flip(3))

    for part, own in zip(images.split(500), labels.split(500), strict=True):
        x = normalised(part)
        size = x.shape[-1]
        padded = functional.pad(x, (1,) * 4, mode="reflect")
        shifted = both(padded[:, :, :size, :size]) + both(padded[:, :, 2:, 2:])
        for view, logits in enumerate((net(x), 2 * both(x) + shifted)):
            right[view] += (logits.argmax(1) == own).sum()
    plain, views = (100 * right / len(images)).tolist()
    return plain, views


def flops(size: int) -> int:
    """Floating-point operations of one training step on one image: three times the forward's."""
    with FlopCounterMode(display=False) as counter:
        Network().eval()(torch.zeros(1, 3, size, size))
    return 3 * counter.get_total_flops()


def read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a folder of class folders, uint8 `[n, 3, height, width]`, and labels."""
    files = [
        (path, label)
        for label, own in enumerate(sorted(p for p in folder.iterdir() if p.is_dir()))
        for path in sorted(own.iterdir())
    ]
    arrays = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    return torch.tensor(arrays).permute(0, 3, 1, 2).contiguous(), torch.tensor(
        [y for _, y in files]
    )


def train(
    data: Path, phases: list[tuple[float, int]], batch_size: int, seed: int
) -> dict[str, Any]:
    """One whole run."""
    torch.manual_seed(seed)
    images, labels = read(data / "train")
    began = time.monotonic()
    net = Network().to(memory_format=torch.channels_last)
    net.whiten(normalised(images[torch.randperm(len(images))[:WHITENING_IMAGES]]))
    sgd, muon = optimizers(net, batch_size)
    steps = sum(round(epochs * (len(images) // batch_size)) for epochs, _ in phases)
    # The published share of the steps: 3 of 8 epochs.
    whitening_steps = math.ceil(WHITENING_EPOCHS / 8 * steps)
    for step, (x, y) in enumerate(batches(images, labels, phases, batch_size)):
        for parameters in (*sgd.param_groups, *muon.param_groups):
            parameters["lr"] = parameters["initial"] * (1 - step / steps)
        bias = sgd.param_groups[0]
        bias["lr"] = bias["initial"] * max(0.0, 1 - step / whitening_steps)
        net.whitening.bias.requires_grad_(step < whitening_steps)
        loss_of(net, x, y).backward()
        sgd.step()
        muon.step()
        net.zero_grad(set_to_none=True)
    training = time.monotonic() - began
    plain, views = accuracy(net, *read(data / "val"))
    seen = [round(e * (len(images) // batch_size)) * batch_size for e, _ in phases]
    return {
        "seed": seed,
        "phases": phases,
        "training": training,
        "plain": plain,
        "views": views,
        "images": sum(seen),
        "pflop": sum(n * flops(size) for n, (_, size) in zip(seen, phases, strict=True)) / 1e15,
    }


def images_per_second(size: int, batch_size: int, repeats: int = 3) -> float:
    """The median rate of a training step, with its batch at hand."""
    net = Network().to(memory_format=torch.channels_last)
    sgd, muon = optimizers(net, batch_size)
    x = normalised(torch.randint(256, (batch_size, 3, size, size)))
    y = torch.randint(10, (batch_size,))
    spent = []
    for _ in range(repeats + 1):
        began = time.monotonic()
        loss_of(net, x, y).backward()
        sgd.step()
        muon.step()
        net.zero_grad(set_to_none=True)
        spent.append(time.monotonic() - began)
    return batch_size / statistics.median(spent[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--phases", default="8@32", help="epochs@size,...; 8@32 is the published one"
    )
    parser.add_argument("--batch_size", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", help="image sizes: time a step at each, and train nothing")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.steps:
        sizes = [int(size) for size in given.steps.split(",")]
        print(json.dumps({size: images_per_second(size, given.batch_size) for size in sizes}))
        return
    parts = [part.split("@") for part in given.phases.split(",")]
    phases = [(float(epochs), int(size)) for epochs, size in parts]
    print(json.dumps(train(given.data, phases, given.batch_size, given.seed)))


if __name__ == "__main__":
    main()
