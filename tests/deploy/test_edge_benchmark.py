"""The edge benchmark's figures follow from its measurements."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import edge
from benchmarks.edge_chart import edge_chart
from metaldefect.artifacts import write_json
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.images import write_png
from tests.slim_detector import SIZE, noise


def row(p50: float, p99: float, rate: float) -> dict[str, Any]:
    return {
        "execution": "f32",
        "LATENCY": {
            "graph": {"p50_ms": p50, "p99_ms": p99},
            "whole_path": {"p50_ms": p50 + 1},
            "images_per_s": rate - 1,
        },
        "THROUGHPUT": {
            "graph": {"p50_ms": p50 + 2, "p99_ms": p99 + 2},
            "whole_path": {"p50_ms": p50 + 3},
            "images_per_s": rate,
        },
        "streams_at_10_fps": 2,
    }


FOUND = {
    "fp32": row(200, 220, 6),
    "fp16": row(100, 110, 12),
    "int8": row(50, 75, 25),
    "torch_eager_fp32": {"p50_ms": 400.0, "p99_ms": 410.0},
    "anomalib_ir_default": {"p50_ms": 125.0, "p99_ms": 130.0},
}
LIMITS = {"gflop": 20.0, "fp32": 200.0, "fp16": 400.0, "int8": 1000.0}


def test_figures_of_known_measurements() -> None:
    figures = edge.summarise(FOUND, LIMITS)
    assert figures["int8_over_eager_fp32"] == 8
    assert figures["fp32_over_eager_fp32"] == 2
    assert figures["int8_over_anomalib_ir"] == 2.5
    assert figures["p99_over_p50_int8"] == 1.5
    # 20 GFLOP in 50 ms are 400 GFLOP/s, in 200 ms 100, in 100 ms 200
    assert figures["matmul_share_int8"] == pytest.approx(0.4)
    assert figures["matmul_share_fp32"] == pytest.approx(0.5)
    assert figures["matmul_share_fp16"] == pytest.approx(0.5)
    assert figures["streams_at_10_fps"] == 2
    assert figures["int8_whole_path_p50_ms"] == 51
    assert figures["int8_images_per_s"] == 25


def test_accuracy_comes_from_the_last_run(tmp_path: Path) -> None:
    assert edge.accuracy_figures(tmp_path / "none.json") == {}
    write_json(
        tmp_path / "found.json",
        {"parity": {"max_abs_error": 2e-6}, "int8": {"auroc_drop": 0.01, "changed_decisions": 0.02}},
    )
    assert edge.accuracy_figures(tmp_path / "found.json") == {
        "parity_max_error": 2e-6,
        "auroc_drop_int8": 0.01,
        "changed_decisions_int8": 0.02,
    }


def test_what_is_not_measured_is_named_with_the_reason(tmp_path: Path) -> None:
    without = edge.not_measured({}, tmp_path / "none.json")
    assert without.keys() == {*edge.FROM_ANOMALIB, *edge.FROM_ACCURACY}
    assert "--anomalib-python" in without["int8_over_anomalib_ir"]
    assert without["parity_max_error"].endswith("none.json does not exist: run `dvc repro evaluate_openvino`")
    write_json(tmp_path / "found.json", {"parity": {"max_abs_error": 2e-6}, "int8": {"changed_decisions": 0}})
    figures = dict.fromkeys(edge.FROM_ANOMALIB, 1.0) | edge.accuracy_figures(tmp_path / "found.json")
    (left,) = edge.not_measured(figures, tmp_path / "found.json").items()
    assert left[0] == "auroc_drop_int8"
    assert "no good and defective test images" in left[1]


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (16, [1, 2, 16])])
def test_one_two_and_all_threads_are_measured(most: int, counts: list[int]) -> None:
    assert edge.thread_counts(most) == counts


def test_every_runtime_is_measured(model: EfficientAD, exported: Path, tmp_path: Path) -> None:
    frames, file = list(noise(2)), tmp_path / "frame.png"
    write_png(file, frames[0])
    found = edge.measure_precision(exported, "fp32", 1, frames, [file], 0.01)
    assert found["execution"] == "f32"
    for hint in edge.HINTS:
        for path in ("graph", "whole_path"):
            numbers = found[hint][path]
            assert 0 < numbers["p50_ms"] <= numbers["p95_ms"] <= numbers["p99_ms"]
            assert numbers["frames"] >= edge.FEWEST
        assert found[hint]["images_per_s"] > 0
    others = edge.measure_others(exported, InspectionGraph(model, SIZE), frames, 1, 0.01)
    assert {"torch_eager_fp32", "onnxruntime_fp32"} == others.keys()


@pytest.mark.parametrize(("milliseconds", "late"), [(0, 0.0), (150, 1.0)])
def test_a_frame_is_late_when_the_next_one_comes_first(milliseconds: float, late: float) -> None:
    detector: Any = SimpleNamespace(predict=lambda frame: time.sleep(milliseconds / 1000))
    assert edge.late_share(detector, [np.zeros((4, 4), np.uint8)], 2, 0.3) == pytest.approx(late, abs=0.4)


def test_operations_per_frame_are_counted(model: EfficientAD) -> None:
    # The last convolutions alone, teacher and student: 32 x 32 positions, 4 x 4 x 16 inputs
    heads = 2 * 32 * 32 * 4 * 4 * 16 * (384 + 768) / 1e9
    assert heads < edge.gflop_per_frame(InspectionGraph(model, SIZE)) < 20 * heads


def test_the_chart_names_every_runtime_and_its_share_of_the_limit() -> None:
    details = {"size": 256, "padding": False, "threads": {"1": FOUND, "2": FOUND}, "matmul_gflops": LIMITS}
    left, right = edge_chart(details, "a machine").axes
    words = " ".join(text.get_text() for text in left.texts)
    assert [name in words for name in ("torch, eager FP32", "this IR, INT8 (f32)", "400 ms")] == [True] * 3
    assert "onnxruntime" not in words, "what was not measured has no bar"
    assert [text.get_text() for text in right.texts] == ["50%", "50%", "40%"]
