"""Draw whole images per class: several candidates for each image, from which a classifier selects."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.backbones import pooled_features
from metaldefect.feature_classifier import Features
from metaldefect.images import U8
from metaldefect.ingest.loading import load_images, split_rows
from metaldefect.maskgit.sampling_config import DrawingSettings, SamplingConfig
from metaldefect.on_disk import zeros_on_disk
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.config import CandidateConfig
from metaldefect.synthesis.painter import Painter
from metaldefect.synthesis.selection import choose, fit_selector

SELECTOR_IMAGES = 100  # training images per class that the candidate selector learns from
CANDIDATES = "candidates.npz"
Labels = NDArray[np.str_]


class Candidates(NamedTuple):
    """Features and classes of all candidates."""

    features: Features  # [N, D]
    labels: Labels  # [N]

    def save(self, folder: Path) -> None:
        """Write `candidates.npz` with the features in half precision."""
        np.savez(folder / CANDIDATES, features=self.features.astype(np.float16), labels=self.labels)

    @classmethod
    def load(cls, folder: Path) -> Candidates | None:
        """Read what `save` wrote; None if there is no such file."""
        if not (folder / CANDIDATES).is_file():
            return None
        with np.load(folder / CANDIDATES) as content:
            return cls(content["features"].astype(np.float32), content["labels"])


class DrawnImages(NamedTuple):
    """Whole images with their classes, and all candidates if there were more to choose from."""

    images: U8  # [N, size, size], or in colour [N, size, size, 3]
    labels: Labels  # [N]
    candidates: Candidates | None


def draw_classes(
    painter: Painter,
    merged: Path,
    per_class: int,
    sampling: SamplingConfig,
    candidates: CandidateConfig,
    batch_size: int,
    seed: int,
) -> DrawnImages:
    """Draw `per_class` images of each class, class by class.

    With a single class there is nothing to tell apart, so that only the images to keep are drawn.

    Args:
        painter: models that draw the images.
        merged: folder of the merged dataset; the selector learns from its training images.
        per_class: images to keep per class.
        sampling: how to sample.
        candidates: how many candidates to draw, and their sampling overrides.
        batch_size: images drawn per batch.
        seed: of drawing and selecting.
    """
    several = candidates.per_image > 1 and len(painter.classes) > 1
    if several:
        sampling = sampling.model_copy(update=dict(DrawingSettings.of(candidates)))
    per_label = per_class * (candidates.per_image if several else 1)
    wanted = np.repeat(np.arange(len(painter.classes)), per_label)
    batches = []
    for start in tqdm(range(0, len(wanted), batch_size), desc="drawing", unit="batch"):
        labels = torch.from_numpy(wanted[start : start + batch_size])
        numbers = [number % per_label for number in range(start, start + len(labels))]
        batches.append(painter.sample(labels, numbers, sampling, seed))
    images, names = np.concatenate(batches), np.array(painter.classes)[wanted]
    if not several:
        return DrawnImages(images, names, None)
    found = Candidates(pooled_features(images), names)
    selector = fit_selector(*selector_features(painter, merged, seed), seed)
    kept = choose(selector, found.features, names, per_class, seed)
    return DrawnImages(images[kept], names[kept], found)


def selector_features(painter: Painter, merged: Path, seed: int) -> tuple[Features, Labels]:
    """Features and classes of training images, at most `SELECTOR_IMAGES` per class.

    Drawn images with the detail of training images are compared with these as they are, others with these
    through the tokenizer.
    """
    train = split_rows(merged, "train").sample(frac=1.0, random_state=seed)
    rows = train.groupby("label").head(SELECTOR_IMAGES).sort_index()
    images = load_images(merged, rows, painter.image_size, "training images", painter.channels)
    if painter.exemplars is None:
        images = through_tokenizer(painter, images)
    return pooled_features(images), rows["label"].to_numpy(str)


def through_tokenizer(painter: Painter, images: U8, batch_size: int = 16) -> U8:
    """Images after a round trip through the tokenizer, with grain; in a temporary file."""
    generators = [image_generator(0, "grain", number) for number in range(len(images))]
    found = zeros_on_disk(images.shape, np.uint8)
    for start in tqdm(range(0, len(images), batch_size), desc="through the tokenizer", unit="batch"):
        chosen = slice(start, start + batch_size)
        part = images[chosen]
        found[chosen] = painter.render(painter.encode(part), painter.field_of(part), generators[chosen])
    return found
