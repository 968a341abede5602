"""ResNet-18, as torchvision has it (He et al., CVPR 2016), and no more.

Torchvision's own is the oracle in the tests, and not imported here: with it come its other models and torch's
compiler, 3 s of imports before every message of a node.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
WIDTHS = (64, 128, 256, 512)


def convolution(width_in: int, width_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the image's size, or halves it; Kaiming's initialisation."""
    made = nn.Conv2d(width_in, width_out, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is fitted where the shape changes."""

    def __init__(self, width_in: int, width_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = convolution(width_in, width_out, 3, stride)
        self.bn1 = norm(width_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = convolution(width_out, width_out, 3)
        self.bn2 = norm(width_out)
        self.downsample = (
            nn.Sequential(convolution(width_in, width_out, 1, stride), norm(width_out))
            if stride > 1 or width_in != width_out
            else None
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """See the class."""
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x_BCHW)))))
        activated: Tensor = self.relu(y + shortcut)
        return activated


class ResNet18(nn.Sequential):
    """Arrays are named as torchvision names them.

    ``small``: a 3x3 first convolution without stride or pooling (section 4.2 of the paper), instead of 7x7 with both.
    """

    def __init__(self, channels: int, classes: int, norm: Norm, *, small: bool) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=convolution(channels, WIDTHS[0], 3) if small else convolution(channels, WIDTHS[0], 7, 2),
            bn1=norm(WIDTHS[0]),
            relu=nn.ReLU(inplace=True),
            maxpool=nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1),
        )
        width_in = WIDTHS[0]
        for number, width in enumerate(WIDTHS, start=1):
            stride = 1 if number == 1 else 2
            parts[f"layer{number}"] = nn.Sequential(Block(width_in, width, stride, norm), Block(width, width, 1, norm))
            width_in = width
        parts |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(width_in, classes)}
        super().__init__(parts)
