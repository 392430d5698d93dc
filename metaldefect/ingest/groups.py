"""Find near-duplicates: the same photograph in another encoding, size, rotation or mirror image.

An exact hash cannot tell that two datasets publish one photograph, once as JPEG and once as BMP. Instead, a
perceptual hash proposes pairs under the eight symmetries of the square, and pixel correlation decides. The
correlation must also hold without coarse shading, because shading alone can make two photographs similar.
Two bounds on the correlation define:

- a *group*: images of one photograph, which differ only in encoding, size or symmetry;
- a *scene*: images of one piece of metal, including crops shifted by a pixel and heavily compressed copies.
  Splits separate scenes, so neither photographs nor pieces of metal leak between them.

Both are connected components of the accepted pairs, and every group lies inside one scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from metaldefect.images import U8

HASH_SIDE = 8
HASH_PIXELS = 32
PIXELS = 64
SYMMETRIES = 8

# Chosen on NEU-DET and SD-saliency-900, whose file numbers reveal shared photographs. The 900 true pairs
# differ by at most 6 bits; they correlate by at least 0.9953, and by 0.932 in detail. Among other pairs,
# scratches_232 and _247 show one scene, rotated by 90 degrees and cropped a pixel apart (0.984, detail
# 0.941); all the rest correlate by less than 0.97, and by less than 0.68 in detail.
MAX_DISTANCE = 14
GROUP_CORRELATION = 0.99
SCENE_CORRELATION = 0.9
MIN_DETAIL = 0.8
# Side of the local mean that `detail` subtracts, in pixels of the 64x64 image.
SHADING_SIDE = 7
# Images whose 64x64 pixels have a smaller norm count as blank; float16 rounding stays below it.
FLAT = 1.0


@dataclass(frozen=True)
class Fingerprint:
    """Reduced image: `uint8 [32, 32]` for hashing, zero-mean `float16 [64, 64]` for comparing."""

    hash_pixels: U8
    pixels: NDArray[np.float16]


@dataclass(frozen=True)
class Pair:
    """Two images, `first` < `second`, that show one scene; `symmetry` maps the second onto the first.

    Attributes:
        distance: number of differing bits of the 64-bit perceptual hashes.
        correlation: Pearson correlation of the 64x64 pixels, -1 to 1.
        detail: the same without coarse shading.
    """

    first: int
    second: int
    symmetry: int
    distance: int
    correlation: float
    detail: float

    @property
    def same_photograph(self) -> bool:
        """Whether the images differ only in encoding, size or symmetry."""
        return self.correlation >= GROUP_CORRELATION


def apply_symmetry(images: NDArray, k: int) -> NDArray:
    """Apply symmetry `k` of the square to the last two axes: `k % 4` quarter turns, mirrored for k >= 4.

    k = 0 changes nothing. The eight results differ unless the image itself is symmetric.
    """
    turned = np.rot90(images, k % 4, axes=(-2, -1))
    return turned[..., ::-1] if k >= 4 else turned


def fingerprint(image: U8) -> Fingerprint:
    """Reduce a square grey image `uint8 [H, W]` to the 9 KiB that comparisons need."""
    # Average as floats: rounding to grey levels would erase images with a contrast of a few levels
    floats = Image.fromarray(image.astype(np.float32))
    compared = np.asarray(floats.resize((PIXELS, PIXELS), Image.Resampling.BOX))
    return Fingerprint(hash_pixels(image), (compared - compared.mean()).astype(np.float16))


def hash_pixels(image: U8) -> U8:
    """Reduce a grey image `uint8 [H, W]` to the `uint8 [32, 32]` that `perceptual_hash` takes."""
    size = (HASH_PIXELS, HASH_PIXELS)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def perceptual_hash(small: U8) -> NDArray[np.uint8]:
    """Compute the 64-bit DCT hash of `imagehash.phash` for many images: `uint8 [N, 32, 32]` -> `[N, 8]`.

    imagehash hashes one image at a time, which takes 3.2 times as long; a test compares the two.
    """
    spectrum = dctn(small.astype(np.float64), axes=(-2, -1))[:, :HASH_SIDE, :HASH_SIDE]
    low = spectrum.reshape(len(small), -1)
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)


def near_duplicate_pairs(fingerprints: Sequence[Fingerprint]) -> list[Pair]:
    """Find all pairs of images of one scene, sorted by index, each with its best symmetry."""
    if len(fingerprints) < 2:
        return []
    small = np.stack([item.hash_pixels for item in fingerprints])
    pixels = np.stack([item.pixels for item in fingerprints])
    hashes = np.stack([perceptual_hash(apply_symmetry(small, k)) for k in range(SYMMETRIES)])
    codes = np.ascontiguousarray(hashes).view(np.uint64)[..., 0]
    pairs: list[Pair] = []
    for first in range(len(fingerprints) - 1):
        best: dict[int, Pair] = {}
        for k in range(SYMMETRIES):
            distances = np.bitwise_count(codes[0, first] ^ codes[k, first + 1 :])
            near = np.flatnonzero(distances <= MAX_DISTANCE)
            if not near.size:
                continue
            others = apply_symmetry(pixels[near + first + 1], k)
            alike, values, details = compare(pixels[first], others)
            for index, value, fine in zip(near[alike].tolist(), values, details, strict=True):
                second = index + first + 1
                found = Pair(first, second, k, int(distances[index]), float(value), float(fine))
                if second not in best or found.correlation > best[second].correlation:
                    best[second] = found
        pairs.extend(best[second] for second in sorted(best))
    return pairs


def compare(
    one: NDArray[np.floating], many: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Compare `[S, S]` with each of `[N, S, S]`.

    Returns:
        Indices of those that show one scene, and their correlations of pixels and of detail. Detail is
        computed only where the pixels correlate, because it takes most of the time.
    """
    whole = one[None].astype(np.float64)
    values = correlation(whole, many.astype(np.float64))
    alike = np.flatnonzero(values >= SCENE_CORRELATION)
    if not alike.size:
        return alike, values[alike], values[alike]
    details = correlation(detail(whole), detail(many[alike].astype(np.float64)))
    kept = details >= MIN_DETAIL
    return alike[kept], values[alike[kept]], details[kept]


def detail(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove the coarse shading from `[N, S, S]`."""
    return pixels - uniform_filter(pixels, size=(1, SHADING_SIDE, SHADING_SIDE), mode="nearest")


def correlation(one: NDArray[np.float64], many: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of `[1, S, S]` with each of `[N, S, S]`; 1 for two blank images."""
    a = one.reshape(1, -1) - one.mean()
    b = many.reshape(len(many), -1)
    b = b - b.mean(axis=1, keepdims=True)
    product = np.linalg.norm(a) * np.linalg.norm(b, axis=1)
    both_flat = (np.linalg.norm(a) < FLAT) & (np.linalg.norm(b, axis=1) < FLAT)
    return np.where(both_flat, 1.0, (b @ a[0]) / np.where(product == 0, np.inf, product))


def first_of_each(count: int, pairs: Sequence[Pair | tuple[int, int]]) -> NDArray[np.int64]:
    """The smallest index in each image's connected component, `int64 [count]`."""
    edges = [(pair.first, pair.second) if isinstance(pair, Pair) else pair for pair in pairs]
    rows, columns = [edge[0] for edge in edges], [edge[1] for edge in edges]
    graph = coo_array((np.ones(len(edges), dtype=bool), (rows, columns)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component].astype(np.int64)
