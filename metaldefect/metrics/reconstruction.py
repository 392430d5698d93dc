"""How well a tokenizer reconstructs images: SSIM, PSNR, Edge IoU, codebook use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from skimage.feature import canny
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from metaldefect.images import U8, as_channels

# These define Edge IoU: Canny on grey levels in [0, 1]
CANNY_SIGMA = 1.0
CANNY_LOW = 0.05
CANNY_HIGH = 0.15


# PSNR of equal images, dB: finite, so that means stay finite
PSNR_OF_EQUALS = 100.0


def ssim(image: U8, reference: U8) -> float:
    """Structural similarity of two `uint8 [H, W]` or `[H, W, 3]` images, -1 to 1 (equal).

    Of colour images the mean over the channels.

    Defined as in Wang et al. 2004 (Gaussian window, sigma 1.5), computed by scikit-image. torchmetrics
    agrees to 2e-3 but takes 4.9 times as long.
    """
    return float(
        structural_similarity(
            image,
            reference,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=None if image.ndim == 2 else 2,
        )
    )


def psnr(image: U8, reference: U8) -> float:
    """Peak signal-to-noise ratio of two `uint8 [H, W]` or `[H, W, 3]` images in dB, 0 to 100 (equal)."""
    if np.array_equal(image, reference):
        return PSNR_OF_EQUALS
    return min(PSNR_OF_EQUALS, float(peak_signal_noise_ratio(reference, image, data_range=255)))


def edges(image: U8) -> NDArray[np.bool_]:
    """Canny edges, `bool [H, W]`: sigma 1.0, thresholds 0.05 and 0.15 on grey levels in [0, 1].

    Those of a colour image are the edges of its luminance.
    """
    grey = as_channels(image, 1)
    return canny(grey / 255.0, sigma=CANNY_SIGMA, low_threshold=CANNY_LOW, high_threshold=CANNY_HIGH)


def edge_iou(image: U8, reference: U8, tolerance: int = 0) -> float:
    """Intersection over union of the `edges` of two images, 0 to 1; 1 if neither has edges.

    With `tolerance` t, an edge pixel is common if the other image has one within t pixels
    (8-neighbourhood); the union is common plus non-common pixels, averaged over both directions.
    """
    a, b = edges(image), edges(reference)
    if not a.any() and not b.any():
        return 1.0
    if tolerance == 0:
        return float((a & b).sum() / (a | b).sum())
    square = np.ones((2 * tolerance + 1,) * 2, bool)
    common_a = float((a & ndimage.binary_dilation(b, square)).sum())
    common_b = float((b & ndimage.binary_dilation(a, square)).sum())
    common = 0.5 * (common_a + common_b)
    alone = (a.sum() - common_a) + (b.sum() - common_b)
    return common / (common + alone)


def codebook_use(tokens: NDArray[np.integer], codebook_size: int) -> dict[str, float]:
    """How much of a codebook the given tokens use.

    Args:
        tokens: codes of any shape, 0 to `codebook_size` - 1; at least one.

    Returns:
        `used`: share of codes that occur, 0 to 1. `perplexity`: exp of the entropy of the code frequencies,
        1 to `codebook_size`.
    """
    counts = np.bincount(tokens.ravel(), minlength=codebook_size)
    return {"used": float((counts > 0).mean()), "perplexity": float(np.exp(stats.entropy(counts)))}
