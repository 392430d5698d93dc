"""The detector as one graph that turns a camera frame into an anomaly map and a score."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metaldefect.deploy.bundle import fit_frames
from metaldefect.efficientad.anomaly_map import combine_maps, scale_maps
from metaldefect.efficientad.torch_model import FEATURES, EfficientAD
from metaldefect.image_files import Levels
from metaldefect.images import IMAGENET_MEAN, IMAGENET_STD, Channels, ImageSize, height_and_width

INPUT = "frame"
# The two maps that make the anomaly map say which network sees a defect. OpenVINO Model API demands one
# output or four, the anomaly map first.
OUTPUTS = ("anomaly_map", "score", "student_map", "autoencoder_map")

# Rec. 601 in 16-bit fixed point, as Pillow's conversion to `L`. All sums are below 2^24: float32 is exact.
RED, GREEN, BLUE = 19595.0, 38470.0, 7471.0
FIXED_POINT = 65536.0
# Resized levels are rounded to whole ones, as in training. Exact halves are frequent (at a scale of 2, for
# example), and runtimes sum in different orders: this much above 0.5 makes all of them round halves up.
HALF = 0.5 + 2.0**-12


class InspectionGraph(nn.Module):
    """Preprocessing, networks and map scaling in one module.

    Resizing and scaling are inside, so every program that runs the graph resizes and scales alike.

    Args:
        model: the trained detector; the graph holds a CPU copy with the teacher's constants folded.
        size: side of the square, or height and width, that frames are resized to, px.
        levels: how images with more than 8 bits are read; None: there are none. The graph takes 16-bit frames
            and applies the levels itself if `fit_frames` says so, else frames have 8 bits.
        channels: 1 makes colour grey; 3 keeps colours and repeats grey.
    """

    def __init__(
        self, model: EfficientAD, size: ImageSize, levels: Levels | None = None, channels: Channels = 1
    ) -> None:
        super().__init__()
        self.model = fold_teacher_constants(model).eval()
        self.size, self.channels, self.file_levels = size, channels, levels
        self.levels = levels if levels is not None and fit_frames(levels) else None
        self.register_buffer("mean", 255.0 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255.0 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.register_buffer("grey_weights", torch.tensor([RED, GREEN, BLUE]))

    mean: Tensor
    std: Tensor
    grey_weights: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frames: `uint16` with levels that fit them, else `uint8`."""
        return torch.uint8 if self.levels is None else torch.uint16

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return anomaly map, its maximum, and both scaled maps of a frame `[1, H, W, C]` of any size.

        The maps are `float32 [1, 1, *size]`, the score is `float32 [1]`.
        """
        pixels = self.colours(frame) if self.channels == 3 else self.grey(frame)
        resized = resize_levels(pixels, self.size)
        resized = resized[None] if self.channels == 3 else resized[:, None]
        raw = self.model.image_maps((resized - self.mean) / self.std)
        anomaly_map = combine_maps(*raw, self.model.quantiles, self.model.map_weights)
        student_map, autoencoder_map = scale_maps(*raw, self.model.quantiles)
        return anomaly_map, anomaly_map.amax(dim=(1, 2, 3)), student_map, autoencoder_map

    def grey(self, frame: Tensor) -> Tensor:
        """Grey levels, whole numbers from 0 to 255, `float32 [1, H, W]`."""
        # Of a grey frame's three equal levels, the weights sum to 1: the level stays what it is
        rgb = self.rgb(frame)
        return torch.floor(((rgb * self.grey_weights).sum(3) + FIXED_POINT / 2) / FIXED_POINT)

    def colours(self, frame: Tensor) -> Tensor:
        """Levels of each colour, whole numbers from 0 to 255, `float32 [3, H, W]`."""
        return self.rgb(frame)[0].permute(2, 0, 1)

    def rgb(self, frame: Tensor) -> Tensor:
        """Whole levels `float32 [1, H, W, 3]`; a frame of one channel gives three equal ones."""
        # With one channel, all three indices are 0
        last = torch.arange(frame.shape[3])[-1:]
        three = torch.minimum(torch.arange(3), last)
        if self.levels is None:
            return frame.index_select(3, three).float()
        low, high = self.levels.low, self.levels.high
        levels = ((frame.float() - low) * (255.0 / (high - low))).round().clamp(0.0, 255.0)
        return levels.index_select(3, three)


def resize_levels(levels: Tensor, size: ImageSize) -> Tensor:
    """Antialiased bilinear resize of whole levels `float32 [N, H, W]` to whole levels `[N, *size]`.

    It follows Pillow's `resize` of 8-bit images: along rows, then along columns, rounded after each. Levels
    differ from Pillow's by at most 1, in few pixels, whose exact value is a half. It is a matrix product
    because OpenVINO's own antialiased resize takes seconds per frame on CPUs without AVX-512.
    """
    height, width = height_and_width(size)
    rows = torch.floor(levels @ resize_weights(levels.shape[2], width).T + HALF)
    return torch.floor(resize_weights(levels.shape[1], height) @ rows + HALF)


def resize_weights(length: int, size: int) -> Tensor:
    """Weight of each of `length` pixels in each of `size` resized ones, `float32 [size, length]`."""
    pixels = torch.arange(length, dtype=torch.float32)
    scale = (pixels[-1:] + 1.0) / size  # of tensors, so that the exported graph computes it from the frame
    centres = (torch.arange(size, dtype=torch.float32) + 0.5)[:, None] * scale
    distance = (pixels + 0.5 - centres).abs() / scale.clamp(min=1.0)
    weights = (1.0 - distance).clamp(min=0.0)
    return weights / weights.sum(dim=1, keepdim=True)


def fold_teacher_constants(model: EfficientAD) -> EfficientAD:
    """Return a CPU copy whose teacher's last convolution outputs normalised features directly.

    The normalisation is folded into weights and bias: `teacher_mean` becomes 0, `teacher_std` 1. The result
    is mathematically equal.
    """
    folded = copy.deepcopy(model).cpu()
    last = folded.teacher.convolutions[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    std, mean = folded.teacher_std.view(FEATURES), folded.teacher_mean.view(FEATURES)
    with torch.no_grad():
        last.weight.copy_(last.weight / std.view(-1, 1, 1, 1))
        last.bias.copy_((last.bias - mean) / std)
        folded.teacher_mean.zero_()
        folded.teacher_std.fill_(1.0)
    return folded
