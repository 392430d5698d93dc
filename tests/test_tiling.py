"""Tiles cover every image, overlap as asked for, and stitch to one map without seams."""

from __future__ import annotations

import numpy as np
import pytest

from metaldefect.errors import UserError
from metaldefect.tiling import cut_tiles, plan_tiles, stitch_maps

SHAPES = [(256, 256), (300, 700), (100, 513), (90, 80), (1000, 257)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0, 16, 64])
def test_tiles_cover_the_image_and_overlap_as_asked_for(shape: tuple[int, int], overlap: int) -> None:
    tiling = plan_tiles(shape, (128, 128), overlap)
    for begins, length in ((tiling.rows, shape[0]), (tiling.columns, shape[1])):
        assert begins[0] == 0
        if length > 128:
            assert begins[-1] == length - 128, "the last tile ends at the border"
            assert min(128 - np.diff(begins)) >= overlap
            assert len(begins) == -(-(length - overlap) // (128 - overlap)), "not one tile more than needed"


def test_literal_places() -> None:
    assert plan_tiles((128, 300), (128, 128), 32) == ((128, 300), (128, 128), (0,), (0, 86, 172))


@pytest.mark.parametrize("shape", SHAPES)
def test_stitched_tiles_of_a_map_are_the_map(shape: tuple[int, int]) -> None:
    whole = np.random.default_rng(0).random(shape).astype(np.float32)
    tiling = plan_tiles(shape, (128, 96), 32)
    tiles = cut_tiles(whole, tiling)
    assert tiles.shape == (len(tiling), 128, 96)
    assert tiles.dtype == np.float32
    np.testing.assert_allclose(stitch_maps(tiles, tiling), whole, atol=1e-6)


def test_tiles_that_disagree_blend_without_a_seam() -> None:
    tiling = plan_tiles((128, 224), (128, 128), 32)
    assert tiling.columns == (0, 96)
    maps = np.stack([np.zeros((128, 128)), np.ones((128, 128))])
    row = stitch_maps(maps, tiling)[64]
    assert (row[:96] == 0).all()
    assert (row[128:] == 1).all()
    # Over the 32 shared pixels, the first tile's weight falls and the second one's rises, both linearly
    np.testing.assert_allclose(row[96:128], (np.arange(32) + 0.5) / 32, atol=1e-6)


def test_colour_tiles_and_an_image_smaller_than_a_tile() -> None:
    image = np.random.default_rng(1).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    tiles = cut_tiles(image, plan_tiles((90, 200), (128, 128), 16))
    assert (tiles.shape, tiles.dtype) == ((2, 128, 128, 3), np.uint8)
    np.testing.assert_array_equal(tiles[0][:90], image[:, :128])
    np.testing.assert_array_equal(tiles[0][127], image[89, :128])


@pytest.mark.parametrize("overlap", [-1, 65])
def test_an_impossible_overlap_is_refused(overlap: int) -> None:
    with pytest.raises(UserError, match=f"overlap {overlap} px: tiles of 128 x 128 px allow 0 to 64"):
        plan_tiles((300, 300), (128, 128), overlap)


def test_an_image_of_another_size_is_refused() -> None:
    tiling = plan_tiles((300, 300), (128, 128), 16)
    with pytest.raises(ValueError, match="its tiling is for"):
        cut_tiles(np.zeros((299, 300)), tiling)
    with pytest.raises(ValueError, match="the tiling needs"):
        stitch_maps(np.zeros((1, 128, 128)), tiling)
