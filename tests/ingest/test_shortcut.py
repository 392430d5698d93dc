"""The source shortcut is seen where it is and not where it is not, and can be taken away."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from metaldefect.ingest.shortcut import GreyStatistics, grey_statistics, source_shortcut, source_tones


def test_statistics_of_a_known_image():
    image = np.zeros((8, 8), np.uint8)
    image[:, 4:] = 100
    found = grey_statistics(image)
    assert (found.mean, found.std, found.skewness) == (50.0, 50.0, 0.0)
    # the Laplacian is +100 and -100 beside the edge, 0 elsewhere: sqrt(2 / 8) * 100
    assert found.sharpness == pytest.approx(50.0)
    assert grey_statistics(np.full((8, 8), 9, np.uint8)) == GreyStatistics(9.0, 0.0, 0.0, 0.0)


def dataset(offset: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "label": ["a"] * 200 + ["b"] * 10 + ["c"] * 4,
            "source": ["x", "y"] * 100 + ["x"] * 10 + ["x", "y"] * 2,
            "scene": [f"s{n}" for n in range(214)],
        }
    )
    statistics = pd.DataFrame(rng.normal(size=(214, 4)), columns=["mean", "std", "skewness", "sharpness"])
    statistics["mean"] += offset * (table["source"] == "y")
    return table, statistics


def test_a_brighter_source_is_told_apart():
    found = source_shortcut(*dataset(offset=8.0))
    assert found == {
        "a": {"balanced_accuracy": 1.0, "chance": 0.5},
        "c": {"chance": 0.5, "too_few_images": 1},
    }


def test_equal_sources_are_not():
    assert abs(source_shortcut(*dataset(offset=0.0))["a"]["balanced_accuracy"] - 0.5) < 0.1


def test_normalising_brings_sources_to_one_look():
    rng = np.random.default_rng(1)
    dark = [rng.normal(60, 10, (32, 32)).clip(0, 255).astype(np.uint8) for _ in range(20)]
    bright = [rng.normal(180, 30, (32, 32)).clip(0, 255).astype(np.uint8) for _ in range(20)]
    images, sources = dark + bright, ["dark"] * 20 + ["bright"] * 20
    statistics = [grey_statistics(image) for image in images]
    tones = source_tones(sources, statistics, [True] * 40)
    changed = pd.DataFrame(
        [asdict(grey_statistics(tones[s].apply(i))) for s, i in zip(sources, images, strict=True)]
    ).groupby(sources)
    assert changed["mean"].mean().tolist() == pytest.approx([120, 120], abs=1)
    assert changed["std"].mean().tolist() == pytest.approx([20, 20], abs=1)


def test_only_reference_images_count():
    statistics = [GreyStatistics(10, 1, 0, 0), GreyStatistics(250, 9, 0, 0)]
    tone = source_tones(["x", "x"], statistics, [True, False])["x"]
    assert (tone.mean, tone.gain, tone.target) == (10, 1, 10)
