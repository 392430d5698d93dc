"""The kernels' benchmark: every formulation does the same mathematics, and the verdict follows the rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.kernel_variants import KernelVariant, efficientad_training
from benchmarks.kernels import measure, summarise


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")


def test_formulations_of_efficientads_step_have_equal_losses(tmp_path: Path) -> None:
    variants = efficientad_training(128, 2, 0.999, tmp_path, compiled=False)
    figures, _ = summarise(measure(variants, rounds=1))
    assert figures["efficientad_training_kernels_difference"] < 0.01
    assert figures["efficientad_training_convolution_difference"] < 0.01


def test_a_kernel_stays_that_beats_the_faster_of_plain_and_compiled_by_the_margin() -> None:
    def row(seconds: float, compiled: bool, hand_written: bool, loss: float) -> dict[str, object]:
        return {
            "seconds": [seconds, seconds, 100.0],  # the median ignores a hiccup
            "first_step_s": 31.0,
            "returned": [torch.tensor(loss)] * 4,
            "compiled": compiled,
            "hand_written": hand_written,
        }

    found = {
        "plain": row(2.0, False, False, 1.0),
        "compiled": row(1.0, True, False, 1.0),
        "fast": row(0.8, False, True, 1.25),
        "slow": row(0.9, False, True, 1.0),
    }
    figures, details = summarise(found)
    assert details["verdict"] == {"fast": "keep", "slow": "delete"}
    assert figures["efficientad_training_fast_gain"] == pytest.approx(1.25)
    assert figures["efficientad_training_fast_speedup"] == pytest.approx(2.5)
    assert figures["efficientad_training_compiled_compile_s"] == pytest.approx(30.0)
    assert figures["efficientad_training_fast_difference"] == pytest.approx(0.25)


def test_rounds_are_interleaved_and_the_first_step_is_a_warm_up() -> None:
    calls = []

    def variant(name: str) -> KernelVariant:
        def step(number: int) -> torch.Tensor:
            calls.append((number, name))
            return torch.tensor(1.0)

        return KernelVariant(name, step)

    found = measure([variant("plain"), variant("other")], rounds=2)
    assert calls == [(0, "plain"), (0, "other"), (1, "other"), (1, "plain"), (2, "plain"), (2, "other")]
    assert {name: len(row["seconds"]) for name, row in found.items()} == {"plain": 2, "other": 2}
