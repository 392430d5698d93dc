"""EfficientAD's networks: the patch description network (PDN), the autoencoder, and the full model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from metaldefect.efficientad.anomaly_map import combine_maps, resize_map
from metaldefect.efficientad.config import SMALLEST_SIDE, Size
from metaldefect.errors import UserError
from metaldefect.hardware import device_of
from metaldefect.images import U8, to_imagenet_range
from metaldefect.kernels.convolution import convolution
from metaldefect.kernels.switch import HasCpuKernel

FEATURES = 384
BOTTLENECK = 8


@dataclass(frozen=True)
class Convolution:
    """One convolution of a PDN; `padding` applies to the padded variant only."""

    channels: int
    kernel: int
    padding: int
    relu: bool
    pool: bool = False


# Paper, tables 5 and 6. Layers listed with 384 channels get the network's own number of channels.
LAYERS: dict[str, tuple[Convolution, ...]] = {
    "S": (
        Convolution(128, 4, 3, relu=True, pool=True),
        Convolution(256, 4, 3, relu=True, pool=True),
        Convolution(256, 3, 1, relu=True),
        Convolution(FEATURES, 4, 0, relu=False),
    ),
    "M": (
        Convolution(256, 4, 3, relu=True, pool=True),
        Convolution(512, 4, 3, relu=True, pool=True),
        Convolution(512, 1, 0, relu=True),
        Convolution(512, 3, 1, relu=True),
        Convolution(FEATURES, 4, 0, relu=True),
        Convolution(FEATURES, 1, 0, relu=False),
    ),
}


class PatchDescriptionNetwork(HasCpuKernel, nn.Module):
    """A short stack of convolutions; each output pixel describes a 33 x 33 patch of the image.

    Its CPU kernel is `metaldefect.kernels.convolution`, equal up to rounding. Source of the layers:
    EfficientAD (arXiv 2303.14535), tables 5 and 6; of the pooling: nelson1425/EfficientAD, common.py.

    Args:
        size: `S` or `M`.
        out_channels: 384 for the teacher, 768 for the student.
        padding: keep the map at a quarter of the image size: 64 at 256 px; without padding 56.
        count_include_pad: whether average pools divide by 4 at the border too, where some of the 4 values
            are padded zeros, as both public implementations do. A teacher's features are right only with
            the pooling it was trained with. Unpadded networks have no such border.
    """

    def __init__(
        self,
        size: Size = "S",
        out_channels: int = FEATURES,
        padding: bool = True,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        if size not in LAYERS:
            raise UserError(f"size {size!r}: expected S or M")
        self.size, self.out_channels = size, out_channels
        self.padding, self.count_include_pad = padding, count_include_pad
        self.layers = LAYERS[size]
        convolutions: list[nn.Conv2d] = []
        channels = 3
        for layer in self.layers:
            out = out_channels if layer.channels == FEATURES else layer.channels
            convolutions.append(
                nn.Conv2d(channels, out, layer.kernel, padding=layer.padding if padding else 0)
            )
            channels = out
        self.convolutions = nn.ModuleList(convolutions)
        self.pool = nn.AvgPool2d(2, 2, padding=1 if padding else 0, count_include_pad=count_include_pad)

    def forward(self, images: Tensor) -> Tensor:
        """`float [N, 3, H, W]`, ImageNet-normalised, to `float [N, out_channels, H', W']`."""
        return self.head(self.trunk(images))

    def trunk(self, images: Tensor) -> Tensor:
        """All layers before the last convolution."""
        if self.cpu_kernel:
            # The first map, at full resolution, is by far the largest. Recomputing it image by image in the
            # backward pass saves its memory and takes no longer.
            parts = [
                checkpoint(self._layer, 0, image, use_reentrant=False, preserve_rng_state=False)
                for image in images.split(1)
            ]
            x = torch.cat(parts)
        else:
            x = self._layer(0, images)
        for index in range(1, len(self.layers) - 1):
            x = self._layer(index, x)
        return x

    def _layer(self, index: int, features: Tensor) -> Tensor:
        layer, module = self.layers[index], self.convolutions[index]
        assert isinstance(module, nn.Conv2d)
        assert module.bias is not None
        x = self.convolve(features, module.weight, module.bias, int(module.padding[0]))
        if layer.relu:
            x = functional.relu(x, inplace=True)
        return self.pool(x) if layer.pool else x

    def head(self, features: Tensor) -> Tensor:
        """The last convolution."""
        return self.convolve(features, *self.head_parameters())

    def convolve(
        self, features: Tensor, weight: Tensor, bias: Tensor, padding: int = 0, *, sparse: bool = False
    ) -> Tensor:
        """A convolution with stride 1, by torch or by the CPU kernel.

        Args:
            features: `float [N, C, H, W]`.
            weight: `float [O, C, K, K]`, bias: `float [O]`.
            padding: zeros on each side.
            sparse: the output's gradient is zero at most positions; only the kernel uses this.
        """
        if self.cpu_kernel:
            return convolution(features, weight, bias, padding, sparse_gradient=sparse)
        return functional.conv2d(features, weight, bias, padding=padding)

    def head_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the last convolution.

        Training splits them: every loss reads only one half of the student's output, and the last
        convolution of PDN-S is half of its work.
        """
        last = self.convolutions[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        return last.weight, last.bias


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def map_size(height: int, width: int, padding: bool) -> tuple[int, int]:
    """Size of the PDN's output for an image: (64, 64) padded and (56, 56) unpadded at 256 px."""

    def side(pixels: int) -> int:
        conv, pool = (3, 1) if padding else (0, 0)
        for _ in range(2):
            pixels = (pixels + 2 * conv - 3 + 2 * pool) // 2
        return pixels + 2 * pool - 2 - 3

    return side(height), side(width)


class Autoencoder(nn.Module):
    """Reconstructs the teacher's features of an image through a global bottleneck of 64 numbers.

    At 256 px it is the paper's network. At other sizes, square or not, the encoder's last map is
    resampled to the 8 x 8 that the bottleneck convolution covers, so that the code stays global.

    Args:
        out_channels: the teacher's channels.
        padding: whether the PDNs are padded (sets the output size).
    """

    def __init__(self, out_channels: int = FEATURES, padding: bool = True) -> None:
        super().__init__()
        self.padding = padding
        widths = (3, 32, 32, 64, 64, 64)
        self.encoder = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        self.bottleneck = nn.Conv2d(64, 64, BOTTLENECK)
        self.decoder = nn.ModuleList(nn.Conv2d(64, 64, 4, padding=2) for _ in range(6))
        self.dropout = nn.Dropout(0.2)
        self.refine = nn.Conv2d(64, 64, 3, padding=1)
        self.output = nn.Conv2d(64, out_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """`float [N, 3, H, W]`, ImageNet-normalised, to `float [N, out_channels, *map_size(H, W)]`."""
        height, width = int(images.shape[-2]), int(images.shape[-1])
        x = images
        for module in self.encoder:
            x = functional.relu(module(x))
        x = self.bottleneck(to_bottleneck_size(x))
        for module, size in zip(self.decoder, decoder_sizes(height, width), strict=True):
            x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
            x = self.dropout(functional.relu(module(x)))
        x = functional.interpolate(
            x, map_size(height, width, self.padding), mode="bilinear", align_corners=False
        )
        return self.output(functional.relu(self.refine(x)))


def to_bottleneck_size(features: Tensor) -> Tensor:
    """Resample a map to 8 x 8: average if it is larger, interpolate bilinearly if it is smaller."""
    height, width = int(features.shape[-2]), int(features.shape[-1])
    if height > BOTTLENECK or width > BOTTLENECK:
        features = functional.adaptive_avg_pool2d(features, (min(height, BOTTLENECK), min(width, BOTTLENECK)))
    if features.shape[-2:] != (BOTTLENECK, BOTTLENECK):
        features = functional.interpolate(
            features, (BOTTLENECK, BOTTLENECK), mode="bilinear", align_corners=False
        )
    return features


def decoder_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes the decoder resizes to before its convolutions: 3, 8, 15, 32, 63, 127 at 256 px."""
    steps = ((64, 1), (32, 0), (16, 1), (8, 0), (4, 1), (2, 1))
    return [(height // divisor - less, width // divisor - less) for divisor, less in steps]


class EfficientAD(nn.Module):
    """Teacher, student and autoencoder, with the constants that turn their outputs into an anomaly map.

    Args:
        size: `S` or `M`.
        padding: padded or unpadded PDNs.
        count_include_pad: how both PDNs pool at the border; must match the teacher (see
            `PatchDescriptionNetwork`).

    Attributes:
        teacher_mean: mean of the teacher's features per channel, `float32 [1, 384, 1, 1]`.
        teacher_std: their standard deviation.
        quantiles: q_a and q_b of the student-teacher map, then of the autoencoder map, `float32 [2, 2]`
            (paper, section 3.4).

    Example:
        >>> model = EfficientAD("S").eval()
        >>> with torch.inference_mode():
        ...     anomaly_map, score = model(torch.zeros(2, 3, 128, 160))
        >>> anomaly_map.shape, score.shape
        (torch.Size([2, 1, 128, 160]), torch.Size([2]))
    """

    def __init__(self, size: Size = "S", padding: bool = True, count_include_pad: bool = True) -> None:
        super().__init__()
        self.size, self.padding, self.count_include_pad = size, padding, count_include_pad
        self.teacher = PatchDescriptionNetwork(size, FEATURES, padding, count_include_pad)
        self.teacher.requires_grad_(False)
        self.student = PatchDescriptionNetwork(size, 2 * FEATURES, padding, count_include_pad)
        self.autoencoder = Autoencoder(FEATURES, padding)
        for name in ("teacher_mean", "teacher_std"):
            self.register_buffer(name, torch.full((1, FEATURES, 1, 1), float(name == "teacher_std")))
        self.register_buffer("quantiles", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        # Of the student-teacher map and the autoencoder map; the paper's until a calibration sets them.
        self.register_buffer("map_weights", torch.tensor([0.5, 0.5]))

    teacher_mean: Tensor
    teacher_std: Tensor
    quantiles: Tensor
    map_weights: Tensor

    def normalised_teacher(self, images: Tensor) -> Tensor:
        """The teacher's features with zero mean and unit variance per channel, float32."""
        return (self.teacher(images).float() - self.teacher_mean) / self.teacher_std

    def residuals(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher minus student, `float32 [N, 384, H', W']`, and the student-autoencoder map."""
        teacher = self.normalised_teacher(images)
        student = self.student(images).float()
        reconstruction = self.autoencoder(images).float()
        reconstruction_map = (reconstruction - student[:, FEATURES:]).square().mean(dim=1, keepdim=True)
        return teacher - student[:, :FEATURES], reconstruction_map

    def raw_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Student-teacher and student-autoencoder maps, each `float32 [N, 1, H', W']`, unscaled."""
        residual, reconstruction_map = self.residuals(images)
        return residual.square().mean(dim=1, keepdim=True), reconstruction_map

    def image_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`raw_maps` at image size, with each position over the patch that it describes."""
        size = (int(images.shape[-2]), int(images.shape[-1]))
        student_map, autoencoder_map = self.raw_maps(images)
        return to_image_size(student_map, size), to_image_size(autoencoder_map, size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly map `float32 [N, 1, H, W]` and its maximum, the score, `float32 [N]`.

        Args:
            images: `float [N, 3, H, W]`, ImageNet-normalised.
        """
        maps = self.image_maps(images)
        anomaly_map = combine_maps(maps[0], maps[1], self.quantiles, self.map_weights)
        return anomaly_map, anomaly_map.amax(dim=(1, 2, 3))


def to_image_size(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of a map to (height, width) of its image.

    An unpadded network's map lacks the patches that would cross the image's border, so first replicate the
    map's own border there. Stretching the map would move every defect outwards, and padding with zeros would
    make the frame blind.
    """
    padded = map_size(*size, padding=True)
    missing = [padded[axis] - int(raw.shape[-2 + axis]) for axis in (0, 1)]
    if any(missing):
        top, left = missing[0] // 2, missing[1] // 2
        raw = functional.pad(raw, (left, missing[1] - left, top, missing[0] - top), mode="replicate")
    return resize_map(raw, size)


def check_image_size(height: int, width: int) -> None:
    """Check that the networks can process images of this size.

    Raises:
        UserError: a side is shorter than 128 px.
    """
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"image size {height} x {width}: EfficientAD needs at least {SMALLEST_SIDE} px per side"
        )


@torch.inference_mode()
def infer(model: EfficientAD, image: U8) -> tuple[float, NDArray[np.float32]]:
    """Score and map `float32 [H, W]` of an image `uint8 [H, W]` or `[H, W, 3]`, on the model's device."""
    anomaly_map, score = model(to_imagenet_range(image[None]).to(device_of(model)))
    return float(score[0]), anomaly_map[0, 0].cpu().numpy()
