"""Gives drawn images the detail of training images: quilting, guided by the decoded tokens.

Tokens say what is where, but a decoder returns about the mean of all images with the same tokens: cracks
blur, pits lose their shape. The detail exists in the training images. So a drawn image is laid block by
block from pieces of the training images that are most like it. Each block takes the piece that looks most
like the decoded tokens there, when seen through the tokenizer, and that fits the blocks already laid. The
seam runs where both agree best.

Sources: Efros and Freeman 2001, "Image quilting for texture synthesis and transfer" (blocks, overlap, minimum
error cut); Hertzmann et al. 2001, "Image analogies" (pieces are compared in the blurred images, and taken
from the sharp ones).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.artifacts import atomic_file
from metaldefect.errors import UserError
from metaldefect.images import U8, channels_of
from metaldefect.synthesis.grain import Floats, code_shares
from metaldefect.tokenizer.fields import light_levels, plane_of

EXEMPLARS = "exemplars.safetensors"
PER_CLASS = 60  # exemplars of a class; more would only make the file larger
ALIKE = 6  # exemplars that one image is laid from: those with the most similar codes, so one finish
BLOCK = 48  # side of a block in pixels
OVERLAP = 16  # pixels that a block shares with its neighbours
STRIDE = 8  # pixels between two pieces of an exemplar
POOL = 4  # pieces are compared after pooling squares of this side
ENERGY = 1.5  # weight of a piece's roughness beside its levels
PIECES = 48  # most similar pieces that the fit to the neighbours chooses from
FIT = 0.4  # weight of that fit; the rest is similarity to the decoded tokens
NEAR = 2  # strides between two pieces that show the same thing
LAST_CHOICE = 1e9  # cost of a piece that the image already has, above any distance
TOLERANCE = 0.1  # pieces this much worse than the best are as good: chance decides


Region = tuple[slice, slice]  # rows and columns


class Guide(NamedTuple):
    """What pieces are compared by, `float32 [N, S / POOL, S / POOL]`; of colours, levels `[N, 3, ...]`."""

    levels: Tensor  # means of the pooled squares, without the light
    roughness: Tensor  # variances inside the squares, the mean of the channels


def guide_of(images: Tensor) -> Guide:
    """The guide of decoded images, `float32 [N, S, S]` or `[N, S, S, 3]` in levels without the light."""
    planes = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)
    levels = F.avg_pool2d(planes, POOL)
    inside = planes - F.interpolate(levels, scale_factor=POOL)
    roughness = F.avg_pool2d(inside.square(), POOL).mean(dim=1)
    return Guide(levels[:, 0] if images.dim() == 3 else levels, roughness)


def descriptors(guide: Guide, stride: int) -> Tensor:
    """Descriptors of all pieces at a stride in pixels, `float32 [N, pieces, D]`.

    D is channels * (BLOCK / POOL)^2 + 2: levels of the pooled squares, their deviation, and the roughness
    inside them. The squared distance of two descriptors is small where both pieces are alike in structure and
    in texture.
    """
    side, step = BLOCK // POOL, stride // POOL
    planes = guide.levels[:, None] if guide.levels.dim() == 3 else guide.levels
    levels = F.unfold(planes, side, stride=step).transpose(1, 2)
    roughness = F.unfold(guide.roughness[:, None], side, stride=step).transpose(1, 2)
    weight = ENERGY * side
    texture = torch.stack([levels.std(2), roughness.mean(2).sqrt()], dim=2)
    return torch.cat([levels, weight * texture], dim=2)


class Library(NamedTuple):
    """The exemplars of one class, ready to be laid.

    Attributes:
        sharp: the images in levels without the plane of their light, `float32 [n, size, size]` or
            `[n, size, size, 3]`. What the light holds beyond a plane, such as a large dark patch, belongs to
            the defect and moves with it.
        pieces: `descriptors` of the images through the tokenizer, `float32 [n, pieces, D]`.
        shares: `code_shares` of the images, `float32 [n, codebook]`.
    """

    sharp: Tensor
    pieces: Tensor
    shares: Tensor

    def cut(self, numbers: Tensor) -> Tensor:
        """Pieces by number, counted over all exemplars: `int64 [...]` to `float32 [..., BLOCK, BLOCK]`.

        Of colour images `[..., BLOCK, BLOCK, 3]`.
        """
        of_one = self.pieces.shape[1]
        across = (self.sharp.shape[1] - BLOCK) // STRIDE + 1
        image, rest = numbers // of_one, numbers % of_one
        along = torch.arange(BLOCK)
        rows = (rest // across * STRIDE)[..., None, None] + along[:, None]
        columns = (rest % across * STRIDE)[..., None, None] + along
        return self.sharp[image[..., None, None], rows, columns]


@dataclass(frozen=True)
class Exemplars:
    """Training images by class, as they are and through the tokenizer.

    `parts` holds for each class `images`: `uint8 [n, size, size]` or `[n, size, size, 3]`; `fields`: the
    light on each, `float16 [n, 3, field, field]`, see `VQModel.field`; `levels` and `roughness`: the `Guide`
    of each through the tokenizer, in half precision; `codes`: the tokenizer's, `int32 [n, h, w]`. `codebook`
    is the number of codes.
    """

    parts: Mapping[str, Mapping[str, Tensor]]
    codebook: int
    libraries: dict[str, Library] = field(
        default_factory=dict, repr=False, compare=False
    )  # made at first use

    @classmethod
    def of(
        cls,
        images: U8,
        reconstructions: Floats,
        fields: Tensor,
        codes: NDArray[np.integer],
        labels: Sequence[str],
        codebook: int,
    ) -> Exemplars:
        """Keep at most `PER_CLASS` images of each class.

        Args:
            images: `uint8 [N, size, size]` or `[N, size, size, 3]`.
            reconstructions: the images through the tokenizer, `float32` of the same shape, in levels.
            fields: the light on each image, `float [N, 3, field, field]`.
            codes: the tokenizer's codes of the images, `[N, h, w]`.
            labels: class of each image.
            codebook: number of codes.

        Raises:
            UserError: the images are smaller than a block.
        """
        size, channels = images.shape[1], channels_of(images)
        if size < BLOCK:
            raise UserError(f"images of {size} px are smaller than a piece of {BLOCK} px")
        names = np.asarray(labels)
        parts = {}
        for name in sorted(set(labels)):
            chosen = np.flatnonzero(names == name)[:PER_CLASS]
            own = fields[chosen].half()
            light = light_levels(own, size, channels)
            guide = guide_of(torch.from_numpy(reconstructions[chosen]) - light)
            parts[name] = {
                "images": torch.from_numpy(images[chosen]),
                "fields": own,
                "levels": guide.levels.half(),
                "roughness": guide.roughness.half(),
                "codes": torch.from_numpy(codes[chosen].astype(np.int32)),
            }
        return cls(parts, codebook)

    def library(self, name: str) -> Library:
        """The exemplars of a class."""
        if name not in self.libraries:
            part = self.parts[name]
            images, channels = part["images"], channels_of(part["images"])
            guide = Guide(part["levels"].float(), part["roughness"].float())
            self.libraries[name] = Library(
                images.float() - light_levels(plane_of(part["fields"], channels), images.shape[1], channels),
                descriptors(guide, STRIDE),
                torch.from_numpy(code_shares(part["codes"].numpy(), self.codebook)),
            )
        return self.libraries[name]

    def detailed(
        self,
        name: str,
        decoded: Floats,
        fields: Tensor,
        codes: Tensor,
        generators: Sequence[torch.Generator],
        region: Region | None = None,
    ) -> Floats:
        """Images of a class with detail, in levels; the shape is that of `decoded`.

        Args:
            name: the class.
            decoded: the images' decoded tokens, `float32 [N, size, size]` or `[N, size, size, 3]` in levels.
            fields: the light on them, `float [N, 3, field, field]`.
            codes: the tokenizer's codes of the images, `int64 [N, h, w]`.
            generators: source of each image's randomness.
            region: rows and columns that need detail; outside, an image may stay as it is. None: all.
        """
        light = light_levels(fields, decoded.shape[1], channels_of(decoded))
        flat = torch.from_numpy(decoded) - light
        return (quilt(self.library(name), flat, codes, generators, region) + light).numpy()

    def save(self, directory: Path) -> None:
        """Write `exemplars.safetensors`."""
        tensors = {
            f"{name}/{kind}": tensor.contiguous()
            for name, part in self.parts.items()
            for kind, tensor in part.items()
        }
        tensors["codebook"] = torch.tensor(self.codebook)
        with atomic_file(directory / EXEMPLARS) as temporary:
            safetensors.torch.save_file(tensors, temporary)

    @classmethod
    def load(cls, directory: Path) -> Exemplars | None:
        """Read what `save` wrote; None if there is no such file."""
        path = directory / EXEMPLARS
        if not path.is_file():
            return None
        tensors = safetensors.torch.load_file(path)
        codebook = int(tensors.pop("codebook"))
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, kind = key.rsplit("/", 1)
            parts.setdefault(name, {})[kind] = tensor
        return cls(parts, codebook)


def quilt(
    library: Library,
    decoded: Tensor,
    codes: Tensor,
    generators: Sequence[torch.Generator],
    region: Region | None = None,
) -> Tensor:
    """Lay images of one class from the exemplars most like them.

    Args:
        library: exemplars of the class.
        decoded: the images' decoded tokens in levels without the light, `float32 [N, size, size]` or
            `[N, size, size, 3]`.
        codes: the tokenizer's codes of the images, `int64 [N, h, w]`.
        generators: source of each image's randomness.
        region: rows and columns to lay; blocks that miss it stay as decoded. None: all.

    Returns:
        Levels without the plane of the light, of the shape of `decoded`.
    """
    codebook = library.shares.shape[1]
    shares = torch.from_numpy(code_shares(codes.numpy(), codebook))
    alike = (shares @ library.shares.t()).topk(min(ALIKE, len(library.shares)), dim=1).indices
    pieces = library.pieces[alike].flatten(1, 2)  # [N, pieces, D]
    used, every = torch.zeros(pieces.shape[:2]), torch.arange(len(pieces))
    size, of_one = decoded.shape[1], library.pieces.shape[1]
    rows, columns = region or (slice(0, size), slice(0, size))
    quilted = decoded.clone()
    laid = torch.zeros(size, size, dtype=torch.bool)
    for top in blocks_over(rows, size):
        for left in blocks_over(columns, size):
            window = (slice(top, top + BLOCK), slice(left, left + BLOCK))
            wanted = descriptors(guide_of(decoded[:, *window]), BLOCK)[:, 0]
            # Not by a matrix product: its rounding depends on the batch, and chance then takes other pieces
            apart = torch.cdist(pieces, wanted[:, None], compute_mode="donot_use_mm_for_euclid_dist")[..., 0]
            nearest, index = (apart.square() + used).topk(min(PIECES, apart.shape[1]), dim=1, largest=False)
            numbers = alike.gather(1, index // of_one) * of_one + index % of_one
            before, known = quilted[:, *window], laid[window]
            candidates = library.cut(numbers)
            chosen = choose(candidates, nearest, before, known, generators)
            quilted[:, *window] = join(candidates[every, chosen], before, known)
            mark_used(used.view(len(used), alike.shape[1], -1), index[every, chosen])
            laid[window] = True
    return quilted


def starts(size: int) -> list[int]:
    """First pixels of the blocks along one side; the last block ends at the border."""
    return [*range(0, size - BLOCK, BLOCK - OVERLAP), size - BLOCK]


def blocks_over(span: slice, size: int) -> list[int]:
    """First pixels of the blocks along one side that touch a span."""
    return [start for start in starts(size) if start < span.stop and start + BLOCK > span.start]


def choose(
    candidates: Tensor, nearest: Tensor, before: Tensor, known: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """Choose one piece per image, `int64 [N]`: one of the best in similarity and in fit to what is laid.

    Args:
        candidates: `float32 [N, PIECES, BLOCK, BLOCK]`, and channels if there are any.
        nearest: squared distances of their descriptors, `float32 [N, PIECES]`.
        before: what is laid in the block's window, `float32 [N, BLOCK, BLOCK]`, likewise.
        known: where something is laid, `bool [BLOCK, BLOCK]`.
        generators: source of each image's randomness.
    """
    cost = nearest / (BLOCK // POOL) ** 2
    if known.any():
        misfit = (candidates - before[:, None])[:, :, known].square().flatten(2).mean(-1)
        cost = (1 - FIT) * cost + FIT * misfit
    good = cost <= cost.min(dim=1, keepdim=True).values * (1 + TOLERANCE)
    chance = torch.stack([torch.rand(cost.shape[1], generator=one) for one in generators])
    return torch.where(good, chance, -1.0).argmax(dim=1)


def mark_used(used: Tensor, chosen: Tensor) -> None:
    """Make a piece and those that overlap it most the last choice in its image: a repeated crack is noticed.

    Args:
        used: cost of choosing each piece again, `float32 [N, exemplars, pieces]`; changed.
        chosen: number of the piece over all exemplars of its image, `int64 [N]`.
    """
    across = round(used.shape[2] ** 0.5)
    for costs, number in zip(used.view(len(used), -1, across, across), chosen.tolist(), strict=True):
        exemplar, place = divmod(number, across * across)
        row, column = divmod(place, across)
        rows = slice(max(0, row - NEAR), row + NEAR + 1)
        costs[exemplar, rows, max(0, column - NEAR) : column + NEAR + 1] = LAST_CHOICE


def join(block: Tensor, before: Tensor, known: Tensor) -> Tensor:
    """Blend blocks `float32 [N, BLOCK, BLOCK]` or `[N, BLOCK, BLOCK, 3]` into what is laid.

    The blend runs along cuts of minimum error.
    """
    if not known.any():
        return block
    error = (block - before).square()
    if error.dim() == 4:
        error = error.mean(dim=3)
    new = torch.ones_like(error)
    columns, rows = int(known[-1].sum()), int(known[:, -1].sum())  # widths of both overlaps
    if columns:
        new[:, :, :columns] *= beyond_cut(error[:, :, :columns])
    if rows:
        new[:, :rows] *= beyond_cut(error[:, :rows].transpose(1, 2)).transpose(1, 2)
    soft = F.avg_pool2d(F.pad(new[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
    soft = torch.where(known, soft, 1.0).view(*soft.shape, *([1] if block.dim() == 4 else []))
    return soft * block + (1 - soft) * before


def beyond_cut(error: Tensor) -> Tensor:
    """Where an overlap belongs to the new block: right of the path of least error from top to bottom.

    Args:
        error: squared difference of both blocks, `float32 [N, length, width]`.

    Returns:
        `float32 [N, length, width]`, 1 on the path and right of it.
    """
    count, length, width = error.shape
    # Least error of a path from the top, with a wall on either side
    ways = np.full((count, length, width + 2), np.inf, np.float32)
    ways[:, :, 1:-1] = error.numpy()
    for row in range(1, length):
        above = ways[:, row - 1]
        ways[:, row, 1:-1] += np.minimum(np.minimum(above[:, :-2], above[:, 1:-1]), above[:, 2:])
    path = np.empty((count, length), np.int64)
    path[:, -1] = ways[:, -1, 1:-1].argmin(axis=1)
    every, steps = np.arange(count), np.array([0, -1, 1])
    for row in range(length - 2, -1, -1):
        near = ways[every[:, None], row, path[:, row + 1, None] + 1 + steps]
        path[:, row] = path[:, row + 1] + steps[near.argmin(axis=1)]
    return torch.from_numpy((np.arange(width) >= path[..., None]).astype(np.float32))
