"""Another score of the same networks: the student-teacher residual measured with its own covariance.

The paper's student-teacher map is the mean over channels of r^2, r being the normalised teacher minus the
student. Channels whose residual varies much on normal images, or varies together, then drown the others.
r^T (C + ridge)^-1 r weighs them by the covariance C of r on held-out normal images. It costs nothing at
inference: with W^T W = (C + ridge)^-1, W goes into the last, linear convolutions of teacher and student.
This score is not the paper's; a calibration has to choose it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from metaldefect.efficientad.torch_model import (
    FEATURES,
    EfficientAD,
    PatchDescriptionNetwork,
    to_image_size,
)
from metaldefect.images import U8, to_imagenet_range
from metaldefect.on_disk import DiskStore


@dataclass
class Moments:
    """Sums over residuals, from which their covariance follows; all float64.

    Attributes:
        count: number of positions.
        total: sum of the residuals, `[C]`.
        products: sum of their outer products, `[C, C]`.
    """

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def of(cls, residual: Tensor) -> Moments:
        """Moments of one residual `float [C, P]`, P being its positions."""
        values = residual.double()
        return cls(values.shape[1], values.sum(dim=1), values @ values.T)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    def covariance(self) -> Tensor:
        """Covariance of the channels, `float64 [C, C]`."""
        mean = self.total / self.count
        return self.products / self.count - torch.outer(mean, mean)


def whitening(covariance: Tensor, ridge: float) -> Tensor:
    """W, upper triangular `float64 [C, C]`, with W^T W = c (C + ridge * mean variance)^-1.

    The factor c, the mean variance, makes the score about as large as the paper's.

    Args:
        covariance: symmetric `float64 [C, C]`.
        ridge: in units of the mean variance, positive.
    """
    variance = covariance.diagonal().mean()
    regular = covariance / variance + ridge * torch.eye(len(covariance), dtype=covariance.dtype)
    lower = torch.linalg.cholesky(torch.linalg.inv(regular))
    return lower.T


def metric_map(residual: Tensor, weights: Tensor) -> Tensor:
    """Mean over channels of (W r)^2 at each position, `float32 [P]`, for a residual `float [C, P]`."""
    return (weights.to(residual.dtype) @ residual).square().mean(dim=0)


@torch.no_grad()
def fold_metric(model: EfficientAD, weights: Tensor) -> None:
    """Change a model so that its student-teacher map becomes mean((W r)^2); exact up to rounding.

    The last convolutions of teacher and student take W, and the teacher's normalisation with it. The half of
    the student that imitates the autoencoder stays as it is.

    Args:
        model: plain, in evaluation mode; changed in place.
        weights: W, `float64 [C, C]`.
    """
    teacher, student = last_convolution(model.teacher), last_convolution(model.student)
    mean, std = (value.double().view(-1).to("cpu") for value in (model.teacher_mean, model.teacher_std))
    kernel, bias = parameters(teacher)
    fold_into(teacher, weights, kernel / std.view(-1, 1, 1, 1), (bias - mean) / std, slice(None))
    kernel, bias = parameters(student)
    half = slice(0, FEATURES)
    fold_into(student, weights, kernel[half], bias[half], half)
    model.teacher_mean.zero_()
    model.teacher_std.fill_(1.0)


def last_convolution(network: PatchDescriptionNetwork) -> nn.Conv2d:
    """The last, linear convolution of a PDN."""
    last = network.convolutions[-1]
    assert isinstance(last, nn.Conv2d)
    return last


def parameters(convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64 on the CPU."""
    assert convolution.bias is not None
    return convolution.weight.double().cpu(), convolution.bias.double().cpu()


def fold_into(convolution: nn.Conv2d, weights: Tensor, kernel: Tensor, bias: Tensor, part: slice) -> None:
    """Write W times a kernel and a bias into some output channels of a convolution."""
    assert convolution.bias is not None
    convolution.weight[part].copy_(torch.einsum("oc,cikl->oikl", weights, kernel))
    convolution.bias[part].copy_(weights @ bias)


def folds_of(scenes: Sequence[str], most: int) -> list[int]:
    """A fold for each image, in [0, most); images of one scene share it."""
    number = {scene: index for index, scene in enumerate(sorted(set(scenes)))}
    return [number[scene] % most for scene in scenes]


FOLDS = 5
Maps = list[tuple[Tensor, Tensor]]


@torch.inference_mode()
def cross_fitted_maps(
    model: EfficientAD,
    normals: U8,
    scenes: Sequence[str],
    defects: U8,
    defect_scenes: Sequence[str],
    ridges: Sequence[float],
) -> tuple[dict[float, tuple[Maps, Maps]], Tensor]:
    """Both maps of normals and defects for each ridge, and the covariance of the residual on all normals.

    The covariance that measures an image comes from normals of other scenes: measured with its own, an image
    looks more normal than a new one would.

    Args:
        model: plain, in evaluation mode.
        normals: held-out, `uint8 [N, H, W]` or `[N, H, W, 3]`.
        scenes: of the normals, at least two different ones.
        defects: of the same shape and type.
        defect_scenes: of their canvases.
        ridges: see `whitening`.

    Returns:
        By ridge, the maps of the normals and of the defects, on disk, as in `calibration.maps_of`; and the
        covariance, `float64 [C, C]`.
    """
    folds = folds_of(scenes, FOLDS)
    fold_of_scene = dict(zip(scenes, folds, strict=True))
    store = DiskStore()
    described = [keep_pair(store, describe(model, image)) for image in normals]
    by_fold = {
        fold: sum_of(
            Moments.of(one[0].flatten(1)) for one, own in zip(described, folds, strict=True) if own == fold
        )
        for fold in set(folds)
    }
    everything = sum_of(by_fold.values())
    others = {fold: sum_of(m for name, m in by_fold.items() if name != fold) for fold in by_fold}
    places = [fold_of_scene.get(scene) for scene in defect_scenes]
    found_defects = [keep_pair(store, describe(model, image)) for image in defects]
    size = (normals.shape[1], normals.shape[2])
    found = {}
    for ridge in ridges:
        fitted = {fold: whitening(moments.covariance(), ridge) for fold, moments in others.items()}
        whole = whitening(everything.covariance(), ridge)
        found[ridge] = (
            [
                keep_pair(store, maps_with(one, fitted[fold], size))
                for one, fold in zip(described, folds, strict=True)
            ],
            [
                keep_pair(store, maps_with(one, whole if fold is None else fitted[fold], size))
                for one, fold in zip(found_defects, places, strict=True)
            ],
        )
    return found, everything.covariance()


def describe(model: EfficientAD, image: U8) -> tuple[Tensor, Tensor]:
    """Residual `float16 [C, h, w]`, on the CPU and half as large as it could be, and autoencoder map."""
    tensor = to_imagenet_range(image[None]).to(model.quantiles.device)
    residual, autoencoder_map = model.residuals(tensor)
    return residual[0].half().cpu(), autoencoder_map.cpu()


def keep_pair(store: DiskStore, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A copy of two tensors on disk, as tensors of the CPU."""
    first, second = (torch.from_numpy(store.keep(one.cpu().numpy())) for one in pair)
    return first, second


def maps_with(
    described: tuple[Tensor, Tensor], weights: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Both maps at image size, `float32 [1, 1, H, W]` each, with the student-teacher map measured by W."""
    residual, autoencoder_map = described
    measured = metric_map(residual.flatten(1).float(), weights).view(1, 1, *residual.shape[1:])
    return to_image_size(measured, size), to_image_size(autoencoder_map, size)


def sum_of(moments: Iterable[Moments]) -> Moments:
    """The moments of all residuals together."""
    return reduce(add, moments)
