"""No image that calibrates is a canvas or a test image, in any provider: on pixels, not on names."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from metaldefect.commands.settings import TrainSettings
from metaldefect.commands.sources import make_provider
from metaldefect.errors import UserError
from metaldefect.images import U8, write_png
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import (
    DatasetProvider,
    InspectionImage,
    InspectionImages,
    RealDatasetProvider,
)
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.procedural.datasets import SampleCounts, write_sample_datasets
from metaldefect.synthesis.insertion import (
    Canvas,
    canvases_of,
    draw_insertions,
    plan_insertions,
    write_insertions,
)
from metaldefect.synthesis.insertion_set import window_of
from metaldefect.synthesis.painter import load_painter
from tests.tiny_models import CLASSES, save_tiny_painter

Make = Callable[[str], DatasetProvider]
SIDE = 96


def textured(key: int) -> U8:
    noise = np.random.default_rng(key).normal(size=(SIDE, SIDE))
    smooth = ndimage.gaussian_filter(noise, 3)
    return np.clip(128 + 6 * smooth / smooth.std(), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Magnetic tiles in the published layout: 24 normal ones under three exposures, two with a crack."""
    root = tmp_path_factory.mktemp("raw") / "tiles"
    for tile in range(24):
        for exposure in range(3):
            image = (textured(tile) * (0.7 + 0.15 * exposure)).astype(np.uint8)
            path = root / f"MT_Free/Imgs/exp{exposure}_num_{tile}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, image)  # decoders go by content; PNG keeps the exposures exact
    for number in range(2):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[20:30, 20:60] = 255
        write_png(root / f"MT_Crack/Imgs/exp1_num_{number}.jpg", textured(100 + number))
        write_png(root / f"MT_Crack/Imgs/exp1_num_{number}.png", mask)
    return root


@pytest.fixture(scope="module")
def make(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The provider of each source, as `metaldefect train` makes it."""
    folder = tmp_path_factory.mktemp("providers")
    save_tiny_painter(folder / "vq", folder / "maskgit")

    def make(source: str) -> DatasetProvider:
        settings = TrainSettings.model_validate(
            {
                "output": folder / "out",
                "source": source,
                "root": None if source == "synthetic" else tiles,
                "adapter": "magnetic_tile",
                "image_size": 128,
                "steps": 1,
                "synthetic": {"train": 4, "validation": 4, "test_normal": 4, "test_anomalies": 2},
                "generated": {
                    "tokenizer": folder / "vq",
                    "maskgit": folder / "maskgit",
                    "per_class": 8,
                    "steps": 2,
                },
            }
        )
        return make_provider(settings, folder / f"work_{source}")

    return make


def contents(images: InspectionImages) -> set[bytes]:
    return {item.image.tobytes() for item in images if item.label == GOOD}


@pytest.mark.parametrize("source", ["real", "synthetic", "generated"])
def test_no_normal_image_is_in_two_splits(make: Make, source: str) -> None:
    provider = make(source)
    splits = {
        name: contents(getattr(provider, name)()) for name in ("train", "validation", "canvases", "test")
    }
    assert all(splits.values())
    for one, other in combinations(splits, 2):
        assert not splits[one] & splits[other], f"{one} and {other} share images"


def background(item: InspectionImage, normals: list[InspectionImage]) -> tuple[str, str]:
    """(name, scene) of the normal image that an anomaly was drawn into, found by its pixels."""
    equal = [float((item.image == normal.image).mean()) for normal in normals]
    best = int(np.argmax(equal))
    assert equal[best] > 0.3, "of this size no mask covers more"
    assert sorted(equal)[-2] < 0.5 * equal[best], "and no other normal image is like it"
    return normals[best].name, normals[best].scene


def test_inserted_defects_are_on_normals_of_their_own_purpose(make: Make) -> None:
    provider = make("generated")
    splits = ("train", "validation", "canvases", "test")
    normals = [
        item._replace(name=f"{split} {item.name}")
        for split in splits
        for item in getattr(provider, split)()
        if item.label == GOOD
    ]
    drawn = {
        "to choose by": list(provider.defects()),
        "to test on": [item for item in provider.test() if item.label != GOOD],
    }
    found = {kind: {background(item, normals) for item in items} for kind, items in drawn.items()}
    assert all(len(items) >= 4 for items in drawn.values())
    for kind, own in (("to choose by", "validation"), ("to test on", "test")):
        assert {name.split()[0] for name, _ in found[kind]} <= {"canvases", own}, kind
    scenes = [{scene for _, scene in backgrounds} for backgrounds in found.values()]
    assert not scenes[0] & scenes[1]


def test_an_anomaly_of_the_synthetic_provider_is_on_metal_of_its_own(make: Make) -> None:
    provider = make("synthetic")
    normals = [*provider.train(), *provider.validation(), *provider.test()]
    for item in provider.test():
        if item.label != GOOD:
            equal = [float((item.image == n.image).mean()) for n in normals if n.label == GOOD]
            assert max(equal) < 0.3


def test_invisible_insertions_have_no_files_and_are_counted(tmp_path: Path) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    painter = load_painter(tmp_path / "vq", tmp_path / "maskgit")
    canvases = [Canvas(f"good/{k}", str(k), textured(k)) for k in range(4)]
    jobs = plan_insertions(CLASSES, 4, 0, canvases, {})
    drawn = draw_insertions(painter, jobs, SamplingConfig(steps=2), 0, 4.0, 8, 1)
    drawn = [found._replace(visible=index > 0) for index, found in enumerate(drawn)]
    (tmp_path / "inserted").mkdir()
    counts = write_insertions(tmp_path / "inserted", jobs, drawn)
    assert counts == {"drawn": 8, "invisible": 1, "validation": 3, "test": 4}
    with (tmp_path / "inserted/insertions.csv").open(newline="") as stream:
        assert [window_of(row) for row in csv.DictReader(stream)] == [job.window for job in jobs]
    images = sorted((tmp_path / "inserted").glob("*/*/*.png"))
    assert len(images) == 14  # 7 images, 7 masks
    assert not [path for path in images if path.stem.startswith("0000") and path.parent.name == CLASSES[0]]


def test_all_canvases_serve_in_halves_by_scene() -> None:
    canvases = [Canvas(f"good/{k}", str(k // 3), textured(k)) for k in range(12)]
    jobs = plan_insertions(CLASSES, 60, 0, canvases, {})
    used = {
        split: {job.canvas.name for job in jobs if job.split == split} for split in ("validation", "test")
    }
    assert {split: len(names) for split, names in used.items()} == {"validation": 6, "test": 6}
    assert used["validation"] | used["test"] == {canvas.name for canvas in canvases}
    with pytest.raises(UserError, match=r"3 normal images of 1 scene\(s\) to insert defects in"):
        plan_insertions(CLASSES, 2, 0, canvases[:3], {})


def test_classes_learnt_in_windows_are_inserted_in_windows_of_that_side() -> None:
    canvases = [Canvas(f"good/{k}", str(k), textured(k)) for k in range(4)]
    side = canvases[0].image.shape[0] // 2
    for job in plan_insertions(CLASSES, 6, 0, canvases, {}, {CLASSES[0]: side}):
        expected = side if job.label == CLASSES[0] else min(job.canvas.image.shape)
        assert {part.stop - part.start for part in job.window} == {expected}
        outside = job.mask.copy()
        outside[job.window] = False
        assert job.mask.any()
        assert not outside.any()


def test_every_normal_that_is_not_trained_on_is_a_canvas(make: Make) -> None:
    provider = make("real")
    assert isinstance(provider, RealDatasetProvider)
    splits = Counter(canvas.split for canvas in canvases_of(provider))
    normal = [label for label in provider.test().labels if label == GOOD]
    assert splits == {
        None: len(provider.canvases()),
        "validation": len(provider.validation()),
        "test": len(normal),
    }
    jobs = plan_insertions(CLASSES, 200, 0, canvases_of(provider), {})
    used = {
        split: {job.canvas.split for job in jobs if job.split == split} for split in ("validation", "test")
    }
    assert used == {"validation": {None, "validation"}, "test": {None, "test"}}


def test_the_sample_dataset_has_canvases(tmp_path: Path) -> None:
    """The smallest pipeline run needs canvases for both kinds of insertions."""
    write_sample_datasets(tmp_path / "sample", SampleCounts(1, 1, 1, 24, 1), seed=0)
    settings = TrainSettings.model_validate(
        {"output": tmp_path / "out", "source": "real", "root": tmp_path / "sample/inspection", "steps": 1}
    )
    provider = make_provider(settings, tmp_path / "work")
    assert len({item.scene for item in provider.canvases()}) >= 2
