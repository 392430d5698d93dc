"""The block ratio: 1 without a grid, more with one."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.images import resize
from metaldefect.metrics import blocks
from metaldefect.metrics.blocks import block_ratio, block_ratio_interval, cell_steps, cell_steps_inside

NEU_DET = Path(__file__).resolve().parents[2] / "../shared/data/neu_det.tar"


def rows_of(*levels: int) -> np.ndarray:
    """An image whose rows all are these grey levels."""
    return np.tile(np.array(levels, np.uint8), (1, len(levels), 1))


def noise(count: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side)).astype(np.uint8)


def squares(count: int, cell: int, side: int = 64) -> np.ndarray:
    """Cells of one grey level each, under noise of one grey level."""
    rng = np.random.default_rng(1)
    levels = rng.integers(20, 230, (count, side // cell, side // cell))
    grid = levels.repeat(cell, axis=1).repeat(cell, axis=2)
    return (grid + rng.integers(0, 2, grid.shape)).astype(np.uint8)


def test_steps_worked_out_by_hand() -> None:
    # In cells of 2 each row steps by 1, 9, 1 and no column steps: across 9 and 0, inside 1 and 0
    steps = cell_steps(rows_of(20, 21, 12, 13), 2)
    assert steps.across.tolist() == [4.5]
    assert steps.inside.tolist() == [0.5]
    assert block_ratio(rows_of(20, 21, 12, 13), 2) == 9.0
    turned = rows_of(20, 21, 12, 13).transpose(0, 2, 1)
    assert block_ratio(turned, 2) == 9.0
    # Cells of 3: the last cell is narrower; steps 0, 4 inside, 30 across, 2 inside
    assert block_ratio(rows_of(7, 7, 11, 41, 43), 3) == pytest.approx((30 / 2) / (6 / 6))


def test_a_box_counts_its_own_steps_on_the_grid_of_the_image() -> None:
    image = rows_of(20, 21, 12, 13, 40, 45)[0]  # in cells of 2: 1 inside, 9 across, 1, 27 across, 5 inside
    steps = cell_steps_inside(image, 2, (slice(1, 2), slice(1, 4)))  # one row: 21, 12, 13
    assert (steps.across.tolist(), steps.inside.tolist()) == ([9.0], [1.0])
    beside = cell_steps_inside(image, 2, (slice(0, 1), slice(3, 6)))
    assert (beside.across.tolist(), beside.inside.tolist()) == ([27.0], [5.0])
    no_border = cell_steps_inside(image, 2, (slice(0, 1), slice(4, 6)))
    assert np.isnan(no_border.across).all()
    assert no_border.inside.tolist() == [5.0]


def test_noise_has_no_grid_and_squares_have_one() -> None:
    assert block_ratio(noise(40), 16) == pytest.approx(1.0, abs=0.02)
    assert block_ratio(squares(10, 16), 16) > 50
    # Of 60 steps inside cells of 16, 4 cross borders of the squares of 8 and 56 are noise of 1/2
    assert block_ratio(squares(10, 8), 16) == pytest.approx(60 / (4 + 28 / 70), rel=0.1)
    shifted = np.roll(squares(10, 16), 5, axis=(1, 2))
    assert block_ratio(shifted, 16) < 0.2


def test_flat_cells_and_wrong_inputs_are_errors() -> None:
    with pytest.raises(ValueError, match="flat"):
        block_ratio(rows_of(0, 0, 10, 10), 2)
    with pytest.raises(ValueError, match="uint8"):
        cell_steps(np.zeros((1, 8, 8)), 2)
    with pytest.raises(ValueError, match="cells of 8 pixels: expected 2 to 7"):
        cell_steps(noise(1, 8), 8)


def test_images_are_measured_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.concatenate([noise(5), squares(4, 16)])
    whole = cell_steps(images, 16)
    monkeypatch.setattr(blocks, "BATCH", 2)
    parts = cell_steps(images, 16)
    assert parts.across.tolist() == whole.across.tolist()
    assert parts.inside.tolist() == whole.inside.tolist()


def test_the_interval_redraws_whole_groups() -> None:
    images = np.concatenate([noise(10), squares(10, 16)])
    found = block_ratio_interval(images, 16)
    assert found["mean"] == block_ratio(images, 16)
    assert found["low"] < found["mean"] < found["high"]
    exposures, scenes = np.repeat(images, 4, axis=0), np.repeat(np.arange(20), 4)
    grouped, alone = block_ratio_interval(exposures, 16, scenes), block_ratio_interval(exposures, 16)
    assert grouped["mean"] == pytest.approx(found["mean"])
    width = found["high"] - found["low"]
    assert grouped["high"] - grouped["low"] == pytest.approx(width, rel=0.1)
    assert alone["high"] - alone["low"] == pytest.approx(width / 2, rel=0.2)


@pytest.mark.skipif(not NEU_DET.is_file(), reason="no NEU-DET in ../shared/data")
def test_real_photographs_have_no_grid() -> None:
    images = []
    with tarfile.open(NEU_DET) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith("0.jpg"))
        for name in names:
            with Image.open(tar.extractfile(name)) as image:
                images.append(resize(np.asarray(image.convert("L")), 256))
    assert len(images) > 100
    assert block_ratio(np.stack(images), 16) == pytest.approx(0.99, abs=0.01)
