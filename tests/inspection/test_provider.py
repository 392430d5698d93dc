"""Dataset providers: what each split holds, and the one error for each kind of broken folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.images import UnreadableImageError
from metaldefect.inspection.provider import (
    DatasetProvider,
    GeneratedDatasetProvider,
    InspectionImages,
    RealDatasetProvider,
    SyntheticCounts,
    SyntheticDatasetProvider,
)


def write(path: Path, level: int, shape: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, level, np.uint8)).save(path)


@pytest.fixture
def category(tmp_path: Path) -> Path:
    root = tmp_path / "steel"
    for k in range(17):
        write(root / f"train/good/{k:03d}.png", k)
    write(root / "test/good/000.png", 100)
    for kind, level in (("hole", 150), ("dent", 200)):
        write(root / f"test/{kind}/000.png", level)
        mask = np.zeros((20, 30), np.uint8)
        mask[2:6, 3:8], mask[10:12, 10:12] = 255, 127
        (root / f"ground_truth/{kind}").mkdir(parents=True)
        Image.fromarray(mask).save(root / f"ground_truth/{kind}/000_mask.png")
    return root


def levels(images: InspectionImages) -> list[int]:
    return [int(item.image[0, 0]) for item in images]


def test_every_eighth_normal_image_validates(category: Path) -> None:
    provider = RealDatasetProvider(category)
    assert levels(provider.validation()) == [7, 15]
    assert levels(provider.train()) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 16]
    assert all(item.mask is None and item.label == "good" for item in provider.train())


def test_a_validation_folder_takes_precedence(category: Path) -> None:
    write(category / "validation/good/000.png", 99)
    provider = RealDatasetProvider(category)
    assert levels(provider.validation()) == [99]
    assert len(provider.train()) == 17


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


def test_size_resizes_images_and_masks(category: Path) -> None:
    item = RealDatasetProvider(category, size=40).test()[1]
    assert item.image.shape == (40, 40)
    assert item.mask is not None
    assert item.mask.shape == (40, 40)
    assert item.mask.dtype == np.bool_
    assert 50 <= item.mask.sum() <= 58  # 20 of 600 pixels are 53.3 of 1600


def test_few_normals_still_leave_one_to_validate(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / f"train/good/{k}.png", k)
    (tmp_path / "test").mkdir()
    provider = RealDatasetProvider(tmp_path)
    assert levels(provider.train()) == [0, 1]
    assert levels(provider.validation()) == [2]


def test_category_without_train_good(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train/good does not exist.*MVTec"):
        RealDatasetProvider(tmp_path)
    (tmp_path / "train/good").mkdir(parents=True)
    with pytest.raises(UserError, match="train/good holds no image to train on"):
        RealDatasetProvider(tmp_path)


def test_no_validation_normals(category: Path, tmp_path: Path) -> None:
    (category / "validation/good").mkdir(parents=True)
    with pytest.raises(UserError, match="validation/good holds no image"):
        RealDatasetProvider(category)
    write(tmp_path / "one/train/good/0.png", 0)
    (tmp_path / "one/test").mkdir()
    with pytest.raises(UserError, match="no normal image to validate on"):
        RealDatasetProvider(tmp_path / "one")


def test_mask_of_another_size(category: Path) -> None:
    write(category / "ground_truth/dent/000_mask.png", 255, (10, 30))
    with pytest.raises(
        UserError, match=r"dent/000_mask\.png is 30 x 10 pixels.*test/dent/000\.png is 30 x 20"
    ):
        RealDatasetProvider(category)


def test_anomaly_without_mask(category: Path) -> None:
    write(category / "test/hole/001.png", 3)
    with pytest.raises(UserError, match=r"hole/001\.png has no mask: .*hole/001_mask\.png does not exist"):
        RealDatasetProvider(category)


def test_file_that_is_no_image(category: Path) -> None:
    (category / "ground_truth/dent/000_mask.png").write_text("text")
    with pytest.raises(UnreadableImageError, match=r"dent/000_mask\.png"):
        RealDatasetProvider(category)


def test_category_without_test(category: Path) -> None:
    (category / "test").rename(category / "elsewhere")
    with pytest.raises(UserError, match="steel has no folder test"):
        RealDatasetProvider(category)


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


def test_generated_provider_joins_normals_and_inserted_defects(category: Path, tmp_path: Path) -> None:
    inserted = tmp_path / "inserted"
    write(inserted / "test/scratches/000.png", 77)
    with pytest.raises(UserError, match=r"scratches/000\.png has no mask"):
        GeneratedDatasetProvider(category, inserted)
    write(inserted / "ground_truth/scratches/000_mask.png", 255)
    provider = GeneratedDatasetProvider(category, inserted)
    assert len(provider.train()) == 15
    assert levels(provider.validation()) == [7, 15]
    assert provider.test().labels == ("good", "scratches")
    assert levels(provider.test()) == [100, 77]
    write(inserted / "test/good/000.png", 101)
    assert levels(GeneratedDatasetProvider(category, inserted).test()) == [101, 77]


def test_generated_provider_without_defects(category: Path, tmp_path: Path) -> None:
    write(tmp_path / "inserted/test/good/000.png", 1)
    with pytest.raises(UserError, match="inserted/test holds no image with an inserted defect"):
        GeneratedDatasetProvider(category, tmp_path / "inserted")


def test_the_base_class_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        DatasetProvider()  # type: ignore[abstract]
