from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from metaldefect.efficientad.evaluation import Scored
from metaldefect.efficientad.figures import heat_map_figure


def scored(label: str, score: float) -> Scored:
    image, mask = np.full((8, 8), 90, np.uint8), np.zeros((8, 8), bool)
    return Scored(image, mask, label, f"{label}/{score}", score, np.full((8, 8), score, np.float32))


def test_heat_maps_of_a_detector_that_scores_below_zero_are_drawn() -> None:
    items = [scored("good", -0.3), scored("dent", -0.2), scored("dent", -0.4)]
    figure = heat_map_figure(items, threshold=-0.25)
    figure.canvas.draw()  # colours are looked up no sooner
    titles = [axes.get_title() for axes in figure.axes]
    plt.close(figure)
    assert "score -0.200, found" in titles
    assert "score -0.400, missed" in titles
