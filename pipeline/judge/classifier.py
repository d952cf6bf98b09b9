"""A small convolutional classifier: it says which class an image shows, how sure it is, and which features it sees."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

MEMBERS, UNITS = 4, 32  # networks, and units of each one's hidden layer; all units together are the features
CHANNELS = 8  # of each network's first convolution; the second has twice as many
SMALL = 16  # pixels; the first convolution halves the height and width of images whose sides are at least this long
RECOGNISED = 0.9  # least probability of the most likely class of an image that counts as recognised
JUDGED_AT_ONCE = 1_000  # images; convolutions need much memory for each


class Judge(nn.Module):
    """An ensemble of small networks side by side: p(class | image) = softmax(mean of their logits).

    Each has two convolutions, a hidden layer and an output. One network alone is sure of images that another one does
    not know, so the share of samples that it recognises depends on the seed of its weights. The mean of several depends
    on it less (Hansen & Salamon 1990). Images of any size have the same number of features.

    Args:
        height, width: of an image, in pixels.
        classes: number of classes.
        channels: 1 for grey images, 3 for colour.
    """

    def __init__(self, height: int, width: int, classes: int, channels: int = 1) -> None:
        super().__init__()
        self.height, self.width, self.classes, self.channels = height, width, classes, channels
        # Strides in place of pooling, whose gradient has no deterministic algorithm on a GPU.
        stride = 2 if min(height, width) >= SMALL else 1
        rows, columns = (_halved(side if stride == 1 else _halved(side)) for side in (height, width))
        # The groups of a convolution do not see each other, so these are those of all networks.
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, MEMBERS * CHANNELS, 5, stride=stride, padding=2), nn.ReLU(),
            nn.Conv2d(MEMBERS * CHANNELS, MEMBERS * 2 * CHANNELS, 3, stride=2, padding=1, groups=MEMBERS), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(2 * CHANNELS * rows * columns, UNITS), nn.ReLU())
            for _ in range(MEMBERS)
        )
        self.outputs = nn.ModuleList(nn.Linear(UNITS, classes) for _ in range(MEMBERS))
        # Root mean square of a feature's deviation over training images; `features` are divided by it.
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor
        self.to(memory_format=torch.channels_last)

    def logits(self, grey: Float[Tensor, "images pixels"]) -> Float[Tensor, "members images classes"]:
        """The logits of each network.

        Args:
            grey: pixels in [0, 1], v / (levels − 1) of images with values v in 0 .. levels − 1.
        """
        return self._logits(self._units(grey))

    def forward(self, grey: Float[Tensor, "images pixels"]) -> tuple[Tensor, Tensor]:
        """Class probabilities (images, classes) and features (images, features)."""
        units = self._units(grey)
        return self._logits(units).mean(0).softmax(-1), torch.cat(units, -1) / self.scale

    def _units(self, grey: Float[Tensor, "images pixels"]) -> list[Tensor]:
        """Units of each network's hidden layer, each (images, units)."""
        maps = self.convolutions(grey.view(-1, self.channels, self.height, self.width)).chunk(MEMBERS, 1)
        return [layer(part) for layer, part in zip(self.hidden, maps, strict=True)]

    def _logits(self, units: list[Tensor]) -> Float[Tensor, "members images classes"]:
        return torch.stack([layer(part) for layer, part in zip(self.outputs, units, strict=True)])


class Verdicts(NamedTuple):
    """What the judge says about images; on the CPU.

    Attributes:
        classes: the most likely class of each image.
        confidence: the probability of that class.
        features: units of the hidden layers, whose variance over the training images is 1 on average.
    """

    classes: Int[Tensor, " images"]
    confidence: Float[Tensor, " images"]
    features: Float[Tensor, "images features"]

    @property
    def recognised(self) -> Tensor:
        """Whether the judge is sure of an image's class."""
        return self.confidence >= RECOGNISED

    @classmethod
    def join(cls, parts: Iterable["Verdicts"]) -> "Verdicts":
        """The verdicts of several parts as one."""
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@torch.inference_mode()
def judge_images(judge: Judge, grey: Float[Tensor, "images pixels"]) -> Verdicts:
    """The judge's verdicts on images with pixels in [0, 1]; any number of images, on any device."""
    parts = []
    for part in grey.split(JUDGED_AT_ONCE):
        probabilities, features = judge(part.to(judge.scale))
        confidence, classes = probabilities.max(-1)
        parts.append(Verdicts(classes.cpu(), confidence.cpu(), features.cpu()))
    return Verdicts.join(parts)


def to_grey(images: UInt8[Tensor, "images *shape"], levels: int) -> Float[Tensor, "images *shape"]:
    """v / (levels − 1), in [0, 1]: how the judge sees images, whatever the model's binarisation."""
    return images.float() / (levels - 1)


def _halved(side: int) -> int:
    """Size of a side after a convolution with stride 2, which rounds up."""
    return (side + 1) // 2
