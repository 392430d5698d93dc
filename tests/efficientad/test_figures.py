from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from metaldefect.efficientad.evaluation import Scored
from metaldefect.efficientad.figures import (
    heat_map_figure,
    insertion_figure,
    map_weight_figure,
    training_figure,
)


def scored(label: str, score: float) -> Scored:
    image, mask = np.full((8, 8), 90, np.uint8), np.zeros((8, 8), bool)
    name = f"{label}/{score}"
    return Scored(image, mask, label, name, name, score, np.full((8, 8), score, np.float32))


def test_heat_maps_of_a_detector_that_scores_below_zero_are_drawn() -> None:
    items = [scored("good", -0.3), scored("dent", -0.2), scored("dent", -0.4)]
    figure = heat_map_figure(items, threshold=-0.25)
    figure.canvas.draw()  # colours are looked up no sooner
    titles = [axes.get_title() for axes in figure.axes]
    plt.close(figure)
    assert "score -0.200, found" in titles
    assert "score -0.400, missed" in titles


def test_the_first_insertion_of_each_class_stands_below_its_good_metal() -> None:
    items = [scored("dent", 0.4), scored("dent", 0.9), scored("scratch", 0.1)]
    canvases = [np.full((8, 8), level, np.uint8) for level in (10, 20, 30)]
    figure = insertion_figure(items, canvases, threshold=0.2)
    figure.canvas.draw()
    axes = np.array(figure.axes).reshape(4, 2)
    shown = [[int(ax.images[0].get_array()[0, 0]) for ax in row] for row in axes[:2]]
    labels = [[ax.get_title() for ax in axes[0]], [ax.get_xlabel() for ax in axes[3]]]
    plt.close(figure)
    assert shown == [[10, 30], [90, 90]]
    assert labels == [["dent", "scratch"], ["found", "missed"]]


def test_training_curves_are_the_columns_that_the_training_wrote() -> None:
    losses = {"step": [10.0, 20.0], "loss": [3.0, 2.0], "hard": [2.0, 1.5]}
    figure = training_figure(losses)
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    plt.close(figure)
    assert lines == {"loss": [[10, 3], [20, 2]], "hard": [[10, 2], [20, 1.5]]}


def test_the_chosen_map_weight_is_marked() -> None:
    figure = map_weight_figure({"0": 0.6, "0.5": 0.8, "1": 0.7}, 0.5)
    curve, mark = figure.axes[0].lines
    plt.close(figure)
    assert curve.get_xydata().tolist() == [[0, 0.6], [0.5, 0.8], [1, 0.7]]
    assert set(mark.get_xdata()) == {0.5}
