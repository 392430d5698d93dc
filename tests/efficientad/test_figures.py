from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from metaldefect.efficientad.calibration import Scores
from metaldefect.efficientad.decision_figures import (
    expected_cost_figure,
    threshold_figures,
    wrong_images_figure,
)
from metaldefect.efficientad.evaluation import Scored
from metaldefect.efficientad.figures import (
    detector_figures,
    heat_map_figure,
    insertion_figure,
    map_weight_figure,
    training_figure,
)
from metaldefect.efficientad.thresholds import Target


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


def test_the_median_insertion_of_each_class_stands_below_its_good_metal() -> None:
    items = [scored("dent", 0.9), scored("dent", 0.4), scored("dent", 0.1), scored("scratch", 0.1)]
    canvases = [np.full((8, 8), level, np.uint8) for level in (10, 20, 30, 40)]
    figure = insertion_figure(items, canvases, threshold=0.2)
    figure.canvas.draw()
    axes = np.array(figure.axes[:8]).reshape(4, 2)
    shown = [[int(ax.images[0].get_array()[0, 0]) for ax in row] for row in axes[:2]]
    labels = [[ax.get_title() for ax in axes[0]], [ax.get_xlabel() for ax in axes[3]]]
    plt.close(figure)
    assert shown == [[20, 40], [90, 90]]
    assert labels == [["dent", "scratch"], ["found: 0.40 > 0.20", "missed: 0.10 ≤ 0.20"]]


def test_an_insertion_is_shown_close_up_with_the_outline_of_its_mask() -> None:
    item = scored("dent", 0.4)
    mask = np.zeros((80, 60), bool)
    mask[70:76, 2:8] = True
    large = replace(item, image=np.arange(4800).reshape(80, 60).astype(np.uint8), mask=mask)
    large = replace(large, anomaly_map=np.zeros((80, 60), np.float32))
    figure = insertion_figure([large], [large.image], threshold=0.2)
    figure.canvas.draw()
    view = figure.axes[2].images[0].get_array()
    outlines = figure.axes[2].collections
    plt.close(figure)
    assert np.array_equal(
        view, large.image[50:80, 0:30]
    )  # a square of half the shorter side, inside the image
    assert len(outlines) == 1


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


GOOD_SCORES, BAD_SCORES = [k / 40 for k in range(40)], [0.5 + k / 20 for k in range(20)]
HELD = Scores(GOOD_SCORES, [f"s{k}" for k in range(40)], BAD_SCORES)


def test_the_cost_curve_marks_the_chosen_threshold_and_the_cheapest() -> None:
    target = Target(cost_miss=50, cost_false_alarm=2, defect_share=0.1)
    chosen = HELD.threshold(target)
    figure = expected_cost_figure(HELD, chosen.value, target)
    curve, cheapest, mark = figure.axes[0].lines
    title = figure.axes[0].get_title()
    plt.close(figure)
    assert cheapest.get_xydata().tolist() == [[chosen.value, chosen.expected_cost]]
    assert set(mark.get_xdata()) == {chosen.value}
    assert np.min(curve.get_ydata()) >= chosen.expected_cost
    # Every image flagged: 0.9 of them for nothing, by the rates (k + 1) / (n + 2)
    assert curve.get_ydata()[0] == pytest.approx(50 * 0.1 * 1 / 22 + 2 * 0.9 * 41 / 42)
    assert "if 10 % of the images show a defect, from 40 good images and 20 inserted defects" in title


def test_without_costs_there_is_a_curve_for_each_ratio_of_them() -> None:
    figure = expected_cost_figure(HELD, 0.9, Target(defect_share=0.5))
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    plt.close(figure)
    assert [text.split(":")[0] for text in texts[:3]] == [
        "a miss costs 1 false alarm",
        "a miss costs 10 false alarms",
        "a miss costs 100 false alarms",
    ]
    assert texts[3] == "threshold 0.900"
    # No image flagged: half of the images are defects that pass
    assert [curve.get_ydata()[-1] for curve in curves] == pytest.approx(
        [0.5 * ratio * 21 / 22 + 0.5 * 1 / 42 for ratio in (1, 10, 100)], rel=0.05
    )


def test_costs_need_inserted_defects() -> None:
    names = [set(threshold_figures(one, 0.9, Target())) for one in (HELD, Scores(GOOD_SCORES, ["s"], []))]
    plt.close("all")
    assert names == [{"operating_points", "expected_cost"}, {"operating_points"}]


def test_wrong_images_are_the_lowest_misses_and_the_highest_false_alarms() -> None:
    right = [scored("dent", 0.9), scored("good", 0.1)]
    missed = [scored("dent", k / 10) for k in (3, 1, 5, 2, 4)]
    flagged = [scored("good", k / 10) for k in (6, 8)]
    missed[1].mask[2:4, 2:4] = True
    figure = wrong_images_figure([*right, *missed, *flagged], threshold=0.5)
    assert figure is not None
    parts = {part.get_suptitle(): [axes.get_title() for axes in part.axes] for part in figure.subfigs}
    outlined = [bool(axes.collections) for axes in figure.subfigs[0].axes[:8]]
    plt.close(figure)
    assert list(parts) == [
        "5 of 6 defects missed; lowest scores first",
        "2 of 3 good images flagged; highest scores first",
    ]
    misses, alarms = parts.values()
    assert misses[:4] == ["dent/0.1", "dent/0.2", "dent/0.3", "dent/0.4"]
    assert misses[4] == "score 0.100 ≤ threshold 0.500"
    assert alarms[:3] == ["good/0.8", "good/0.6", ""]
    assert alarms[4] == "score 0.800 > threshold 0.500"
    assert outlined == [True, False, False, False] * 2
    assert wrong_images_figure(right, threshold=0.5) is None


def test_a_long_name_keeps_its_end() -> None:
    item = scored("good", 0.9)
    item.name = "good/" + "x" * 30 + "_017.png"
    figure = wrong_images_figure([item], threshold=0.5)
    assert figure is not None
    title = figure.subfigs[0].axes[0].get_title()
    plt.close(figure)
    assert len(title) == 26
    assert title.startswith("…")
    assert title.endswith("x_017.png")


@pytest.mark.parametrize(
    ("test", "normals", "labels"),
    [
        ([scored("good", 0.1)], [0.1, 0.2], ["good (1)", "good, validation (2)", "threshold 0.500"]),
        ([scored("good", 0.1)], [], ["good (1)", "threshold 0.500"]),
        ([], [0.1, 0.2], ["good, validation (2)", "threshold 0.500"]),
        ([scored("dent", 0.7)], [0.1], ["defective (1)", "good, validation (1)", "threshold 0.500"]),
    ],
)
def test_one_kind_of_image_has_a_histogram_and_no_curves(
    test: list[Scored], normals: list[float], labels: list[str]
) -> None:
    figures = detector_figures({"real": test}, 0.5, normals=normals)
    texts = [text.get_text() for text in figures["score_histogram"].axes[0].get_legend().get_texts()]
    plt.close("all")
    assert sorted(texts) == sorted(labels)
    assert set(figures) == {"score_histogram"}


def test_without_any_score_there_is_no_figure() -> None:
    assert detector_figures({"real": []}, 0.5) == {}
