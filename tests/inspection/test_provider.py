"""Dataset providers: what each split holds, and the one error for each kind of broken folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.images import UnreadableImageError
from metaldefect.inspection.layout import write_scenes
from metaldefect.inspection.provider import (
    DatasetProvider,
    GeneratedDatasetProvider,
    InspectionImages,
    RealDatasetProvider,
)
from metaldefect.inspection.synthetic import SyntheticCounts, SyntheticDatasetProvider


def write(path: Path, level: int, shape: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, level, np.uint8)).save(path)


@pytest.fixture
def category(tmp_path: Path) -> Path:
    """A prepared dataset; every image is a scene of its own, named by its grey level."""
    root = tmp_path / "steel"
    images = {f"train/good/{k:03d}.png": k for k in range(4)}
    images |= {"validation/good/000.png": 40, "canvas/good/000.png": 60, "canvas/good/001.png": 61}
    images |= {"test/good/000.png": 100, "test/hole/000.png": 150, "test/dent/000.png": 200}
    for path, level in images.items():
        write(root / path, level)
    for kind in ("hole", "dent"):
        mask = np.zeros((20, 30), np.uint8)
        mask[2:6, 3:8], mask[10:12, 10:12] = 255, 127
        (root / f"ground_truth/{kind}").mkdir(parents=True)
        Image.fromarray(mask).save(root / f"ground_truth/{kind}/000_mask.png")
    write_scenes(root, {path: f"scene {level}" for path, level in images.items()})
    return root


def write_insertions(root: Path, rows: list[tuple[str, str, str]]) -> None:
    """Insertions as (split, scene, path), `scratches` all of them; an empty path is an invisible one."""
    lines = ["path,mask,label,split,canvas,scene"]
    for split, scene, path in rows:
        mask = f"ground_truth/scratches/{Path(path).stem}_mask.png" if path else ""
        if path:
            write(root / path, 77)
            write(root / mask, 255)
        lines.append(f"{path},{mask},scratches,{split},canvas/good/000,{scene}")
    root.mkdir(exist_ok=True)
    (root / "insertions.csv").write_text("\n".join(lines) + "\n")


def levels(images: InspectionImages) -> list[int]:
    return [int(item.image[0, 0]) for item in images]


def test_each_split_is_its_folder(category: Path) -> None:
    provider = RealDatasetProvider(category)
    assert levels(provider.train()) == [0, 1, 2, 3]
    assert levels(provider.validation()) == [40]
    assert levels(provider.canvases()) == [60, 61]
    assert len(provider.defects()) == 0
    assert all(item.mask is None and item.label == "good" for item in provider.train())


def test_every_image_knows_its_scene(category: Path) -> None:
    provider = RealDatasetProvider(category)
    everything = [*provider.train(), *provider.validation(), *provider.canvases(), *provider.test()]
    assert all(item.scene == f"scene {item.image[0, 0]}" for item in everything)


def test_training_needs_the_training_images_alone(category: Path) -> None:
    for folder in ("test", "validation", "canvas", "ground_truth"):
        (category / folder).rename(category.parent / folder)
    assert len(RealDatasetProvider(category).train()) == 4


def test_test_images_come_with_masks_kind_by_kind(category: Path) -> None:
    test = RealDatasetProvider(category).test()
    assert test.labels == ("good", "dent", "hole")
    assert [(item.label, item.name) for item in test] == [
        ("good", "good/000"),
        ("dent", "dent/000"),
        ("hole", "hole/000"),
    ]
    assert levels(test) == [100, 200, 150]
    assert test[0].mask is None
    mask = test[1].mask
    assert mask is not None
    assert mask.shape == (20, 30)
    assert mask.sum() == 20
    assert mask[2:6, 3:8].all()
    assert [item.label for item in test[1:]] == ["dent", "hole"]
    assert test[1:].labels == ("dent", "hole")


def test_a_folder_that_was_not_prepared_is_refused(category: Path, tmp_path: Path) -> None:
    (category / "scenes.csv").unlink()
    with pytest.raises(UserError, match=r"scenes\.csv does not exist.*is not a prepared dataset"):
        RealDatasetProvider(category).train()
    with pytest.raises(UserError, match=r"train/good does not exist"):
        RealDatasetProvider(tmp_path / "nowhere").train()


def test_an_image_that_was_added_later_is_refused(category: Path) -> None:
    write(category / "train/good/099.png", 9)
    with pytest.raises(UserError, match=r"099\.png was added to a prepared dataset"):
        RealDatasetProvider(category).train()


def test_an_empty_split_is_refused(category: Path) -> None:
    (category / "validation/good/000.png").unlink()
    with pytest.raises(UserError, match="validation/good holds no image"):
        RealDatasetProvider(category).validation()


def test_mask_of_another_size(category: Path) -> None:
    write(category / "ground_truth/dent/000_mask.png", 255, (10, 30))
    with pytest.raises(
        UserError, match=r"dent/000_mask\.png is 30 x 10 pixels.*test/dent/000\.png is 30 x 20"
    ):
        RealDatasetProvider(category).test()


def test_anomaly_without_mask(category: Path) -> None:
    (category / "ground_truth/hole/000_mask.png").unlink()
    test = RealDatasetProvider(category).test()
    assert [(item.label, item.mask is None) for item in test] == [
        ("good", True),
        ("dent", False),
        ("hole", True),
    ]


def test_file_that_is_no_image(category: Path) -> None:
    (category / "ground_truth/dent/000_mask.png").write_text("text")
    with pytest.raises(UnreadableImageError, match=r"dent/000_mask\.png"):
        RealDatasetProvider(category).test()


def test_category_without_test(category: Path) -> None:
    (category / "test").rename(category / "elsewhere")
    assert len(RealDatasetProvider(category).test()) == 0


def test_synthetic_provider_draws_every_kind() -> None:
    provider = SyntheticDatasetProvider(7, SyntheticCounts(3, 2, 2, 1), 64)
    assert (len(provider.train()), len(provider.validation())) == (3, 2)
    assert provider.test().labels == ("good", "good", "scratch", "contamination", "misplaced_object")
    for item in provider.test():
        assert item.image.shape == (64, 64)
        assert (item.mask is None) == (item.label == "good")
    assert [item.name for item in provider.test()][-1] == "misplaced_object/0000"
    everything = [*provider.train(), *provider.validation(), *provider.test()]
    assert len({item.image.tobytes() for item in everything}) == 10
    assert len({item.scene for item in everything}) == 10


def test_synthetic_images_depend_on_seed_split_and_index_alone() -> None:
    few = SyntheticDatasetProvider(7, SyntheticCounts(2, 1, 1, 1), 64)
    many = SyntheticDatasetProvider(7, SyntheticCounts(5, 3, 2, 2), 64)
    np.testing.assert_array_equal(few.train()[1].image, many.train()[1].image)
    np.testing.assert_array_equal(few.test()[1].image, many.test()[2].image)  # the first scratch of each
    other = SyntheticDatasetProvider(8, SyntheticCounts(2, 1, 1, 1), 64)
    assert (few.train()[1].image != other.train()[1].image).any()


def test_synthetic_provider_on_one_finish() -> None:
    provider = SyntheticDatasetProvider(0, SyntheticCounts(8, 1, 0, 0), 64, finish="bright")
    assert min(item.image.mean() for item in provider.train()) > 140


def test_synthetic_counts_without_normals() -> None:
    with pytest.raises(UserError, match="0 images to train on"):
        SyntheticCounts(0, 1, 1, 1)
    with pytest.raises(UserError, match="0 normal images to validate on"):
        SyntheticCounts(1, 0, 1, 1)


def test_generated_provider_divides_insertions_and_leaves_invisible_ones_out(
    category: Path, tmp_path: Path
) -> None:
    inserted = tmp_path / "inserted"
    with pytest.raises(UserError, match=r"insertions\.csv does not exist: insert defects first"):
        GeneratedDatasetProvider(category, inserted)
    write_insertions(
        inserted,
        [
            ("validation", "scene 60", "validation/scratches/0000.png"),
            ("test", "scene 61", "test/scratches/0001.png"),
            ("validation", "scene 60", ""),
        ],
    )
    provider = GeneratedDatasetProvider(category, inserted)
    assert levels(provider.train()) == [0, 1, 2, 3]
    assert levels(provider.validation()) == [40]
    assert [(item.name, item.scene) for item in provider.defects()] == [("scratches/0000", "scene 60")]
    assert provider.test().labels == ("good", "scratches")
    assert levels(provider.test()) == [100, 77]
    assert provider.test_canvases() == [category / "canvas/good/000.png"]
    (inserted / "ground_truth/scratches/0001_mask.png").unlink()
    with pytest.raises(UserError, match=r"scratches/0001\.png has no mask"):
        provider.test()


@pytest.mark.parametrize(
    ("validation_scene", "test_scene", "message"),
    [
        ("scene 60", "scene 40", "canvases of test defects show scenes of validation"),
        ("scene 100", "scene 61", "canvases of validation defects show scenes of test"),
        ("scene 2", "scene 61", "canvases of validation defects show scenes of train"),
        ("scene 60", "scene 2", "canvases of test defects show scenes of train"),
        ("scene 60", "scene 60", "validation and test defects share canvases"),
    ],
)
def test_insertions_that_leak_are_refused(
    category: Path, tmp_path: Path, validation_scene: str, test_scene: str, message: str
) -> None:
    inserted = tmp_path / "inserted"
    write_insertions(
        inserted,
        [
            ("validation", validation_scene, "validation/scratches/0000.png"),
            ("test", test_scene, "test/scratches/0001.png"),
        ],
    )
    with pytest.raises(UserError, match=message):
        GeneratedDatasetProvider(category, inserted)


def test_the_base_class_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        DatasetProvider()  # type: ignore[abstract]
