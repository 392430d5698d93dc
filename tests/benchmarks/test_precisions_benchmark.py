"""What `python -m benchmarks.precisions` makes of its measurements."""

from __future__ import annotations

from typing import Any

from benchmarks.precisions import summarise


def measured(execution: str) -> dict[str, Any]:
    """Details of a CPU that computes FP16 in `execution`."""
    by_type = {"crack": {"auroc_drop": 0.003}, "fray": {"auroc_drop": -0.001}}
    found = {"auroc_drop": 0.001, "changed_decisions": 0.02, "by_type": by_type, "execution": execution}
    return {"fp32": {"image_auroc": 0.9, "execution": "f32"}, "fp16": found, "int8": found}


def test_fp16_that_computes_in_bf16_is_bf16s_cost() -> None:
    figures, details = summarise(measured("bf16"))
    for precision in ("fp16", "bf16", "int8"):
        assert figures[f"auroc_drop_{precision}"] == 0.001
        assert figures[f"auroc_drop_{precision}_worst_type"] == 0.003
        assert figures[f"changed_decisions_{precision}"] == 0.02
    assert figures["image_auroc_fp32"] == 0.9
    assert "not_measured" not in details


def test_where_fp16_computes_in_something_else_bf16_is_not_measured() -> None:
    figures, details = summarise(measured("f32"))
    assert [name for name in figures if "bf16" in name] == []
    reason = "this CPU computes FP16 in f32: measure on a CPU with bf16 units"
    assert details["not_measured"] == {"bf16": reason}
    assert details["int8"]["auroc_drop"] == 0.001
