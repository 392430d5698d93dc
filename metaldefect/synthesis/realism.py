"""Crops for the realism test: real defects, and the same shapes inserted into other metal of the same kind.

Every real defect gives one mask. It goes to a free place in another photograph of its class, and each method
fills it there: the models draw, the real defect is copied, or paint is applied. All crops have the same size
around the same shapes on the same metal, so only the defect's look can tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.backbones import pooled_features
from metaldefect.images import U8, Channels, read_grey, read_image, resize
from metaldefect.ingest.loading import split_rows, spread_over_classes
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.metrics.realism import FEWEST_GROUPS, realism_auroc
from metaldefect.procedural.images import keyed_generator
from metaldefect.synthesis.change import apply_change
from metaldefect.synthesis.config import TransplantConfig
from metaldefect.synthesis.inpainting import Mask
from metaldefect.synthesis.methods import MaskGITPainter, ProceduralPainter, Proposer, Transplanter
from metaldefect.synthesis.painter import Painter
from metaldefect.synthesis.photographs import Photograph, as_photograph
from metaldefect.synthesis.placement import (
    Spot,
    bounding_box,
    centre_of,
    extent_of,
    free_place,
    near,
    square_around,
)
from metaldefect.synthesis.procedural_insertion import PAINTERS
from metaldefect.synthesis.transplant import Defect, cut_defects

METRICS = {
    "drawn": "insertion_realism_auroc",
    "copy_paste": "copy_paste_realism_auroc",
    "procedural": "procedural_realism_auroc",
}
ROOM = 1.6  # side of a crop over the extent of its mask
SMALLEST_CROP = 32  # pixels
CROP = 128  # side to which crops are resized
CLEARANCE = 8  # pixels between an inserted defect and the photograph's own
CANVASES = 20  # other photographs that are tried for a free place
FEATHER = 6.0
ATTEMPTS = 3
STILL = TransplantConfig(turn=0.0, smallest=1.0, largest=1.0)


class Original(NamedTuple):
    """A real defect in its photograph."""

    label: str
    scene: str
    photograph: Photograph
    defect: Defect
    mask: Mask  # of this defect, the photograph's size


class Place(NamedTuple):
    """Where an original's mask lies in another photograph."""

    canvas: Photograph
    spot: Spot


class SingleDefect:
    """One defect: what `Transplanter` moves."""

    def __init__(self, defect: Defect) -> None:
        self.defect = defect

    def choose(self, rng: np.random.Generator, canvas: Photograph) -> Defect:
        """The defect."""
        return self.defect


def measure_realism(
    painter: Painter, merged: Path, split: str, sampling: SamplingConfig, limit: int, seed: int
) -> dict[str, Any]:
    """Run the realism test for drawn, copied and painted defects.

    Args:
        painter: the models.
        merged: folder of the merged dataset; images with masks take part.
        split: `validation` to choose by the result, `test` to publish it.
        sampling: how the models sample.
        limit: number of real defects at most, spread over classes and photographs.
        seed: of places, drawing and folds.

    Returns:
        Under the names in `METRICS` an AUROC with its interval; `defects`: the number of real defects;
        `visible`: how many of each method's could be seen; `left_out`: the reason for what was not measured.
    """
    rows = split_rows(merged, split)
    rows = rows[rows["mask_path"].notna()].reset_index(drop=True)
    originals = find_originals(merged, spread_over_classes(rows, limit), limit, painter.channels)
    places = find_places(merged, rows, originals, seed, painter.channels)
    paired = [(one, place) for one, place in zip(originals, places, strict=True) if place is not None]
    found: dict[str, Any] = {"defects": len(paired), "visible": {}, "left_out": {}}
    if len({one.scene for one, _ in paired}) < FEWEST_GROUPS:
        reason = f"{len(paired)} real defects with a free place, {FEWEST_GROUPS} scenes are needed"
        return {**found, "left_out": dict.fromkeys(METRICS.values(), reason)}
    crops = {"real": [crop_around(one.photograph, one.mask) for one, _ in paired]}
    groups = {"real": [one.scene for one, _ in paired]}
    for method in METRICS:
        crops[method], groups[method] = insert_all(method, paired, painter, sampling, seed)
    features = {name: pooled_features(np.stack(part)) for name, part in crops.items() if part}
    for method, name in METRICS.items():
        found["visible"][method] = len(crops[method])
        if len(set(groups[method])) < FEWEST_GROUPS:
            reason = f"{len(crops[method])} visible defects, {FEWEST_GROUPS} scenes are needed"
            found["left_out"][name] = reason
            continue
        sides = features["real"], features[method]
        found[name] = realism_auroc(*sides, groups["real"], groups[method], seed)
    return found


def find_originals(merged: Path, rows: pd.DataFrame, limit: int, channels: Channels = 1) -> list[Original]:
    """Up to `limit` whole defects with free metal around them: one of each photograph, then further ones."""
    found: list[tuple[int, Original]] = []
    for row in tqdm(rows.to_dict("records"), desc="real defects", unit="image"):
        photograph, mask = read_masked(merged, row, channels)
        suitable = [
            (defect, part)
            for defect, part in parts_of(photograph, mask)
            if not defect.cut and not (mask & ~part)[crop_window(part)].any()
        ]
        for rank, (defect, part) in enumerate(suitable):
            found.append((rank, Original(row["label"], str(row["scene"]), photograph, defect, part)))
    return [one for _, one in sorted(found, key=lambda item: item[0])][:limit]


def read_masked(merged: Path, row: Mapping[Any, Any], channels: Channels = 1) -> tuple[Photograph, Mask]:
    """The photograph and the mask of a row."""
    mask = read_grey(merged / row["mask_path"]) > 127
    return as_photograph(read_image(merged / row["path"], channels)), mask


def parts_of(photograph: Photograph, mask: Mask) -> list[tuple[Defect, Mask]]:
    """The defects of a photograph with their masks in it, largest first."""
    defects = cut_defects(photograph, mask, "")
    found = []
    for defect in defects:
        part = np.zeros(mask.shape, bool)
        part[defect.window] = defect.mask
        found.append((defect, part))
    return found


def find_places(
    merged: Path, rows: pd.DataFrame, originals: list[Original], seed: int, channels: Channels = 1
) -> list[Place | None]:
    """A place for each original's mask in a photograph of another scene of its class."""
    found: list[Place | None] = []
    for number, one in enumerate(originals):
        rng = keyed_generator(seed, "realism", number)
        others = rows[(rows["label"] == one.label) & (rows["scene"].astype(str) != one.scene)]
        place = None
        for index in rng.permutation(len(others))[:CANVASES]:
            canvas, mask = read_masked(merged, others.iloc[int(index)].to_dict(), channels)
            place = find_place(canvas, near(mask, CLEARANCE), one, rng)
            if place is not None:
                break
        found.append(place)
    return found


def find_place(canvas: Photograph, taken: Mask, one: Original, rng: np.random.Generator) -> Place | None:
    """A place for a mask in a photograph such that the whole crop is free of other defects."""
    side = crop_side(one.mask)
    corner = free_place(rng, np.ones((side, side), bool), Spot(taken))
    if corner is None:
        return None
    region = one.mask[bounding_box(one.mask)]
    mask = np.zeros(canvas.shape, bool)
    top, left = (c + (side - n) // 2 for c, n in zip(corner, region.shape, strict=True))
    mask[top : top + region.shape[0], left : left + region.shape[1]] = region
    return Place(canvas, Spot(np.zeros(canvas.shape, bool), mask=mask))


def insert_all(
    method: str,
    paired: list[tuple[Original, Place]],
    painter: Painter,
    sampling: SamplingConfig,
    seed: int,
) -> tuple[list[U8], list[str]]:
    """Crops of a method's visible insertions, and the scene of the real defect whose shape each has."""
    crops, groups = [], []
    changed = photographs_with(method, paired, painter, sampling, seed)
    for (one, place), photograph in zip(paired, changed, strict=True):
        if photograph is not None:
            assert place.spot.mask is not None
            crops.append(crop_around(photograph, place.spot.mask))
            groups.append(one.scene)
    return crops, groups


def photographs_with(
    method: str,
    paired: list[tuple[Original, Place]],
    painter: Painter,
    sampling: SamplingConfig,
    seed: int,
) -> list[Photograph | None]:
    """Each place's photograph with a method's defect in it; None where nothing can be seen."""
    found: list[Photograph | None] = []
    for number, (one, place) in enumerate(tqdm(paired, desc=f"insert {method}", unit="defect")):
        found.append(
            photograph_with(method, one, place, painter, sampling, (seed, "realism", method, number))
        )
    return found


def photograph_with(
    method: str,
    one: Original,
    place: Place,
    painter: Painter,
    sampling: SamplingConfig,
    key: tuple[int, str, str, int],
) -> Photograph | None:
    """A place's photograph with a method's defect in it; None if nothing can be seen after `ATTEMPTS`."""
    proposer = proposer_of(method, one, painter, sampling)
    if proposer is None:
        return None
    for attempt in range(ATTEMPTS):
        rng = keyed_generator(*key, attempt)
        change = proposer.propose(place.canvas, one.label, place.spot, rng, FEATHER)
        if change is None:
            continue
        applied = apply_change(place.canvas, change, FEATHER)
        if applied.visible:
            return applied.photograph
    return None


def proposer_of(method: str, one: Original, painter: Painter, sampling: SamplingConfig) -> Proposer | None:
    """What inserts an original's counterpart; None if the method does not know its class."""
    if method == "copy_paste":
        return Transplanter({one.label: SingleDefect(one.defect)}, STILL)
    if method == "procedural":
        return ProceduralPainter() if one.label in PAINTERS else None
    if one.label not in painter.classes:
        return None
    return MaskGITPainter(painter, sampling, {})


def crop_side(mask: Mask) -> int:
    """Side in pixels of the crop around a mask."""
    return min(max(SMALLEST_CROP, round(ROOM * extent_of(bounding_box(mask)))), *mask.shape)


def crop_window(mask: Mask) -> tuple[slice, slice]:
    """The square around a mask."""
    return square_around(centre_of(bounding_box(mask)), crop_side(mask), (mask.shape[0], mask.shape[1]))


def crop_around(photograph: Photograph, mask: Mask) -> NDArray[np.uint8]:
    """The square around a mask, `uint8 [128, 128]` or `[128, 128, 3]`."""
    return resize(photograph.pixels[crop_window(mask)].astype(np.uint8, copy=False), CROP)
