"""The three ways to put a defect into a photograph, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.procedural.images import keyed_generator
from metaldefect.synthesis.change import Applied, Change, apply_change
from metaldefect.synthesis.config import TransplantConfig
from metaldefect.synthesis.drawn_insertion import draw_defect
from metaldefect.synthesis.inpainting import Mask
from metaldefect.synthesis.painter import Painter
from metaldefect.synthesis.photographs import Photograph
from metaldefect.synthesis.placement import Spot, near
from metaldefect.synthesis.procedural_insertion import paint_defect
from metaldefect.synthesis.transplant import Defect, transplant

NO_ROOM = "no room"
INVISIBLE = "invisible"


class Proposer(Protocol):
    """Proposes a change that puts a defect of a class into a photograph; None if there is no room."""

    def propose(
        self, canvas: Photograph, label: str, spot: Spot, rng: np.random.Generator, feather: float
    ) -> Change | None: ...


class Source(Protocol):
    """Real defects of a class to choose from, such as a `DefectLibrary`."""

    def choose(self, rng: np.random.Generator, canvas: Photograph) -> Defect: ...


@dataclass(frozen=True)
class Transplanter:
    """Moves real defects; `libraries` holds those of each class."""

    libraries: Mapping[str, Source]
    config: TransplantConfig

    def propose(
        self, canvas: Photograph, label: str, spot: Spot, rng: np.random.Generator, feather: float
    ) -> Change | None:
        defect = self.libraries[label].choose(rng, canvas)
        return transplant(canvas, defect, spot, rng, self.config, feather)


@dataclass(frozen=True)
class ProceduralPainter:
    """Paints procedural defects."""

    def propose(
        self, canvas: Photograph, label: str, spot: Spot, rng: np.random.Generator, feather: float
    ) -> Change | None:
        return paint_defect(canvas, label, spot, rng, feather)


@dataclass(frozen=True)
class MaskGITPainter:
    """Draws defects with the models; `masks` holds shapes of real defects of each class, if there are any."""

    painter: Painter
    sampling: SamplingConfig
    masks: Mapping[str, Sequence[Mask]]

    def propose(
        self, canvas: Photograph, label: str, spot: Spot, rng: np.random.Generator, feather: float
    ) -> Change | None:
        shapes = self.masks.get(label, ())
        return draw_defect(canvas, self.painter, label, spot, rng, self.sampling, shapes, feather)


class Inserted(NamedTuple):
    """One defect that was to be inserted.

    Attributes:
        mask: `bool [H, W]` of what can be seen; None if nothing was inserted.
        contrast: see `Applied`.
        source: the real defect, if one was moved.
        details: what was chosen at random.
        note: why nothing was inserted, else empty.
    """

    mask: Mask | None
    contrast: float
    source: str
    details: dict[str, float]
    note: str


def insert_defects(
    canvas: Photograph,
    proposer: Proposer,
    label: str,
    count: int,
    key: Sequence[str | int],
    spot: Spot,
    feather: float,
    attempts: int,
) -> tuple[Photograph, list[Inserted]]:
    """Insert defects of a class into a photograph, one after another, none on another.

    Args:
        canvas: the photograph, which stays as it is.
        proposer: the method.
        label: class of the defects.
        count: number of defects.
        key: seed and name; with a defect's number it determines everything random about that defect.
        spot: what the user says about place and size.
        feather: width in pixels of the fade beside a defect.
        attempts: how often to try again where a defect could not be seen or found no room.

    Returns:
        The changed photograph, and what became of each defect.
    """
    taken = spot.taken
    found = []
    for number in range(count):
        here = replace(spot, taken=taken)
        applied, inserted = insert_one(canvas, proposer, label, (*key, number), here, feather, attempts)
        if applied is not None:
            canvas = applied.photograph
            taken = taken | near(applied.mask, round(2 * feather))
        found.append(inserted)
    return canvas, found


def insert_one(
    canvas: Photograph,
    proposer: Proposer,
    label: str,
    key: Sequence[str | int],
    spot: Spot,
    feather: float,
    attempts: int,
) -> tuple[Applied | None, Inserted]:
    """Insert one defect; the result is None after `attempts` without a visible defect at a free place."""
    note = NO_ROOM
    for attempt in range(attempts):
        rng = keyed_generator(int(key[0]), label, *key[1:], attempt)
        change = proposer.propose(canvas, label, spot, rng, feather)
        if change is None:
            continue
        applied = apply_change(canvas, change, feather)
        if not applied.visible:
            note = INVISIBLE
        elif not (applied.mask & spot.taken).any():
            details = {**change.details, "attempt": float(attempt)}
            return applied, Inserted(applied.mask, applied.contrast, change.source, details, "")
    return None, Inserted(None, 0.0, "", {}, note)
