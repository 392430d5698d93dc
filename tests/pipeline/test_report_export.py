"""The report's export table says what each precision computes in and what it costs."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import write_json
from pipeline.report.evidence import export_table
from pipeline.report.numbers import Metrics


def test_every_figure_names_the_precision_that_it_was_computed_in(tmp_path: Path) -> None:
    assert export_table(Metrics(tmp_path)) is None
    exported = {
        "fp32": {"execution": "f32", "image_auroc": 0.99, "auroc_drop": 0.0, "changed_decisions": 0.0},
        "int8": {"execution": "bf16", "image_auroc": 0.985, "auroc_drop": 0.005, "changed_decisions": 0.02},
        "bytes": {"detector_int8.bin": 8_000_000},
    }
    write_json(tmp_path / "metrics/evaluate_openvino.json", exported)
    write_json(tmp_path / "metrics/latency.json", {"int8": {"p50_ms": 55.0}})
    table = export_table(Metrics(tmp_path))
    assert table is not None
    rows = [dict(zip(table.header, (text for text, _kind in row), strict=True)) for row in table.rows]
    assert [(row[""], row["computes in"]) for row in rows] == [("FP32", "f32"), ("INT8", "bf16")]
    assert (rows[1]["lost against FP32"], rows[1]["decisions changed"]) == ("0.005000", "0.02000")
    assert rows[1]["median ms"] == "55.00"
