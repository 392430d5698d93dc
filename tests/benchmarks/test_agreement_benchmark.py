"""What `python -m benchmarks.agreement` counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.agreement import Answers, compare, measure


def test_differences_and_changed_decisions() -> None:
    ours = Answers([0.1, 0.5, 0.9], [False, True, True])
    theirs = Answers([0.1, 0.3, 0.8], [False, False, True])
    assert compare(ours, theirs) == (pytest.approx(0.2), 1)
    assert compare(ours, theirs, (0.0, 0.3)) == (0.0, 1), "beyond the limits, scores count as equal"


def test_model_api_agrees_on_a_bundle(planted: dict[str, Path]) -> None:
    pytest.importorskip("model_api", reason="openvino-model-api is not installed")
    figures, details = measure(planted["good"].parent / "raw", None, None)
    assert figures["golden_frames"] == 8
    assert figures["model_api_fp32_max_error"] < 1e-4
    assert {name: value for name, value in figures.items() if "changed" in name and value} == {}
    assert len(details["scores"]["int8"]) == 8
