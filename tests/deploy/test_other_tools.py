"""Other people's runtimes load the exported graphs and give the same scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest

from metaldefect.deploy.bundle import PRECISIONS
from metaldefect.deploy.runtime import Detector

pytest.importorskip("model_api", reason="openvino-model-api is not installed")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_openvino_model_api_gives_the_same_scores_and_decisions(exported: Path, precision: str) -> None:
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import Model

    adapter = OpenvinoAdapter(
        openvino.Core(),
        str(exported / f"detector_{precision}.xml"),
        device="CPU",
        plugin_config={"INFERENCE_PRECISION_HINT": "f32"} if precision == "fp32" else {},
    )
    other = Model.create_model(adapter)
    detector = Detector.load(exported, precision, self_test=False)
    labels = set()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 60 + 60 * seed, (150, 170, 3), dtype=np.uint8)
        ours, theirs = detector.predict(image), other(image)
        labels.add(theirs.pred_label)
        assert theirs.pred_label == ("Anomalous" if ours.is_anomalous else "Normal")
        normalised = np.clip(0.5 + (ours.score - detector.threshold) / (2 * detector.threshold), 0, 1)
        # Model API gives the probability of the label that it names
        expected = normalised if ours.is_anomalous else 1 - normalised
        assert theirs.pred_score == pytest.approx(float(expected), abs=1e-4)
        assert theirs.anomaly_map.shape == (150, 170)
    assert len(labels) == 2, "the images must test both decisions"
