"""What the page makes of a drawing."""

import gradio as gr
import numpy as np
import pytest

from app.demo import grey_background, painted_mask


def drawing(layer: np.ndarray | None, painted: bool = False) -> dict:
    background = np.full((8, 8, 4), 100, np.uint8)
    background[..., 3] = 255
    composite = background.copy()
    if painted:
        composite[2, 3, 0] = 255
    return {"background": background, "layers": [] if layer is None else [layer], "composite": composite}


def test_the_mask_is_what_a_layer_covers() -> None:
    layer = np.zeros((8, 8, 4), np.uint8)
    layer[1:3, 4] = [255, 30, 30, 128]
    assert np.argwhere(painted_mask(drawing(layer))).tolist() == [[1, 4], [2, 4]]


def test_the_mask_is_what_the_composite_changes() -> None:
    assert np.argwhere(painted_mask(drawing(None, painted=True))).tolist() == [[2, 3]]


def test_nothing_painted_and_no_image_are_told() -> None:
    with pytest.raises(gr.Error, match="Paint a mask"):
        painted_mask(drawing(np.zeros((8, 8, 4), np.uint8)))
    with pytest.raises(gr.Error, match="Choose or drop an image"):
        painted_mask({"background": None})
    with pytest.raises(gr.Error, match="Choose or drop an image"):
        grey_background({"background": None})


def test_the_background_becomes_grey() -> None:
    assert grey_background(drawing(None)).tolist() == [[100] * 8] * 8
