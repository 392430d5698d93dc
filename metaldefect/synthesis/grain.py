"""Adds the texture that a tokenizer leaves out: noise with the statistics of its residual.

Decoded tokens are close to the mean of all images with these tokens, so they are smooth where metal is
rough. The missing part is `image - reconstruction`. We measure its power in bands of scale and direction,
per code, on training images; a generated image gets noise of that power. (Film grain synthesis in video
codecs does the same: Norkin and Birkbeck 2018, "Film grain synthesis for AV1 video codec".)

Images with the same codes can differ in roughness: a sheet's finish and a camera's focus affect the whole
image. So each generated image takes its band scales from the measured image with the most similar codes.

Grain is brightness: roughness scatters light of all colours alike. In colour images it is measured on the
mean of the channels and added to all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from metaldefect.artifacts import atomic_file
from metaldefect.images import U8

GRAIN = "grain.safetensors"
# Standard deviations, in pixels, of the Gaussians that bound the octaves
SCALES = (0.0, 0.7, 1.4, 2.8, 5.6, 11.2)
BANDS = 3 * (len(SCALES) - 1)
# A code's own power and the mean of all codes weigh the same if the code was seen this often
PRIOR_CELLS = 2.0
# Power, in squared grey levels, below which a band counts as empty
TINY = 1e-3

Floats = NDArray[np.float32]


def bands(images: Floats) -> Floats:
    """Split `[N, H, W]` into `[BANDS, N, H, W]`, which sum to it except for detail coarser than all scales.

    Each octave gives three bands: detail across rows, across columns, and across both.
    """
    found = []
    fine = images
    for scale, coarser in itertools.pairwise(SCALES):
        sigma = float(np.sqrt(coarser**2 - scale**2))
        smooth_rows = gaussian_filter1d(fine, sigma, axis=1)
        smooth_columns = gaussian_filter1d(fine, sigma, axis=2)
        coarse = gaussian_filter1d(smooth_rows, sigma, axis=2)
        found += [smooth_columns - coarse, smooth_rows - coarse, fine - smooth_rows - smooth_columns + coarse]
        fine = coarse
    return np.stack(found)


def add_grain(levels: Floats, noise: Floats) -> Floats:
    """Add noise `[N, H, W]` to levels `[N, H, W]` or to every channel of `[N, H, W, 3]`."""
    return levels + (noise if levels.ndim == 3 else noise[..., None])


@cache
def unit_power() -> Floats:
    """Power of each band of white noise of variance 1, `[BANDS]`: the energy of its impulse response."""
    impulse = np.zeros((1, 255, 255), np.float32)
    impulse[0, 127, 127] = 1.0
    return np.asarray((bands(impulse) ** 2).sum(axis=(1, 2, 3)))


def code_shares(codes: NDArray[np.integer], codebook: int) -> Floats:
    """Square roots of the code shares, `[N, codebook]`; their dot products are Bhattacharyya coefficients."""
    counts = np.stack([np.bincount(cells.ravel(), minlength=codebook) for cells in codes])
    return np.sqrt(counts / codes[0].size).astype(np.float32)


@dataclass(frozen=True)
class Grain:
    """Statistics of the residual.

    `deviation`: its standard deviation per code and band, `float32 [codebook, BANDS]` in grey levels.
    `excess`: each measured image's deviation relative to what its codes predict, per band,
    `float32 [images, BANDS]`. `shares`: `code_shares` of the same images, `float32 [images, codebook]`.
    """

    deviation: Tensor
    excess: Tensor
    shares: Tensor

    @classmethod
    def fit(cls, images: U8, reconstructions: Floats, codes: NDArray[np.integer], codebook: int) -> Grain:
        """Measure the residual of these images.

        Args:
            images: `uint8 [N, H, W]` or `[N, H, W, 3]`.
            reconstructions: the images through the tokenizer, `float32` of the same shape, in levels.
            codes: the tokenizer's codes of the images, `[N, h, w]`.
            codebook: number of codes.

        Raises:
            ValueError: no images.
        """
        if not len(images):
            raise ValueError("no images to measure the residual on")
        height, width = codes.shape[1:]
        cell = images.shape[1] // height
        power = np.zeros((BANDS, codebook))
        of_images = np.zeros((len(images), BANDS))
        seen = np.bincount(codes.ravel(), minlength=codebook).astype(float)
        for number, (image, reconstruction, cells) in enumerate(
            zip(images, reconstructions, codes, strict=True)
        ):
            left_out = image.astype(np.float32) - reconstruction
            parts = bands((left_out if left_out.ndim == 2 else left_out.mean(axis=2))[None])[:, 0]
            squares = (parts**2).reshape(BANDS, height, cell, width, cell).mean(axis=(2, 4))
            of_images[number] = squares.mean(axis=(1, 2))
            for band in range(BANDS):
                power[band] += np.bincount(cells.ravel(), weights=squares[band].ravel(), minlength=codebook)
        mean = power.sum(axis=1, keepdims=True) / seen.sum()
        variance = ((power + PRIOR_CELLS * mean) / (seen + PRIOR_CELLS)).T
        expected = np.stack([variance[cells.ravel()].mean(axis=0) for cells in codes])
        return cls(
            torch.from_numpy(np.sqrt(variance)).float(),
            torch.from_numpy(np.sqrt((of_images + TINY) / (expected + TINY))).float(),
            torch.from_numpy(code_shares(codes, codebook)),
        )

    def draw(self, codes: Tensor, size: int, generators: Sequence[torch.Generator]) -> Floats:
        """Draw noise for images with these codes, `float32 [N, size, size]` in grey levels.

        Args:
            codes: the tokenizer's codes, `int64 [N, h, w]`.
            size: side of the images in pixels.
            generators: source of each image's randomness, on the CPU; see `image_generator`.
        """
        codes = codes.cpu()
        noise = torch.stack([torch.randn((size, size), generator=one) for one in generators]).numpy()
        shares = torch.from_numpy(code_shares(codes.numpy(), len(self.deviation)))
        alike = (shares @ self.shares.t()).argmax(dim=1)
        scale = self.excess[alike] / torch.from_numpy(unit_power()).sqrt()
        gains = self.deviation[codes].permute(0, 3, 1, 2) * scale[:, :, None, None]
        # Smooth, to avoid steps at the borders of cells
        smooth = F.interpolate(gains, (size, size), mode="bilinear", align_corners=False).numpy()
        return np.einsum("nbhw,bnhw->nhw", smooth, bands(noise))

    def save(self, directory: Path) -> None:
        """Write `grain.safetensors`."""
        tensors = {"deviation": self.deviation, "excess": self.excess, "shares": self.shares}
        with atomic_file(directory / GRAIN) as temporary:
            safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, temporary)

    @classmethod
    def load(cls, directory: Path) -> Grain | None:
        """Read what `save` wrote; None if there is no such file."""
        path = directory / GRAIN
        if not path.is_file():
            return None
        tensors = safetensors.torch.load_file(path)
        if "excess" not in tensors:  # written before grain was measured per image
            codebook = len(tensors["deviation"])
            tensors |= {"excess": torch.ones(1, BANDS), "shares": torch.ones(1, codebook)}
        return cls(**tensors)
