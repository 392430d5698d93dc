"""The edge benchmark's figures follow from its measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import edge
from metaldefect.artifacts import write_json
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.images import write_png
from tests.slim_detector import SIZE, noise


def test_figures_of_known_measurements() -> None:
    def row(p50: float, p99: float, rate: float) -> dict[str, object]:
        return {
            "graph": {"p50_ms": p50, "p99_ms": p99},
            "whole_path": {"p50_ms": p50 + 1},
            "images_per_s": rate,
        }

    rows = {"fp32": row(200, 220, 6), "fp16": row(100, 110, 12), "int8": row(50, 75, 25)}
    others = {"torch_eager_fp32": {"p50_ms": 400.0}, "anomalib_ir": {"p50_ms": 125.0}}
    figures = edge.summarise(rows, others, {"gflop": 20.0, "fp32": 200.0, "int8": 1000.0})
    assert figures["int8_over_eager_fp32"] == 8
    assert figures["fp32_over_eager_fp32"] == 2
    assert figures["int8_over_anomalib_ir"] == 2.5
    assert figures["p99_over_p50_int8"] == 1.5
    # 20 GFLOP in 50 ms are 400 GFLOP/s, in 200 ms 100
    assert figures["matmul_share_int8"] == pytest.approx(0.4)
    assert figures["matmul_share_fp32"] == pytest.approx(0.5)
    assert figures["streams_at_10_fps"] == 2
    assert figures["int8_whole_path_p50_ms"] == 51


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


def test_every_runtime_is_measured(model: EfficientAD, exported: Path, tmp_path: Path) -> None:
    frames, file = list(noise(2)), tmp_path / "frame.png"
    write_png(file, frames[0])
    found = edge.measure_precision(exported, "int8", 1, frames, [file], 3)
    assert 0 < found["graph"]["p50_ms"] <= found["graph"]["p99_ms"]
    assert found["whole_path"]["p50_ms"] > 0
    assert found["images_per_s"] > 0
    others = edge.measure_others(exported, InspectionGraph(model, SIZE), frames, 1, 3)
    assert {"torch_eager_fp32", "onnxruntime_fp32"} <= others.keys()


def test_operations_per_frame_are_counted(model: EfficientAD) -> None:
    # The last convolutions alone, teacher and student: 32 x 32 positions, 4 x 4 x 16 inputs
    heads = 2 * 32 * 32 * 4 * 4 * 16 * (384 + 768) / 1e9
    assert heads < edge.gflop_per_frame(InspectionGraph(model, SIZE)) < 20 * heads
