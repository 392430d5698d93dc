"""The edge benchmark's figures follow from its measurements."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import edge, edge_tables
from benchmarks.edge_chart import edge_chart
from benchmarks.readme import table
from benchmarks.results import Result
from metaldefect.artifacts import write_json
from metaldefect.deploy.bundle import PRECISIONS
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.images import write_png
from pipeline.params import Augment, Data, Params, Report
from pipeline.report.facts import Facts
from pipeline.report.page import render_report
from pipeline.report.pictures import edge_picture
from tests.slim_detector import SIZE, noise


def row(p50: float, p99: float, rate: float) -> dict[str, Any]:
    return {
        "execution": "f32",
        "LATENCY": {
            "graph": {"p50_ms": p50, "p99_ms": p99},
            "whole_path": {"p50_ms": p50 + 1},
        },
        "THROUGHPUT": {
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


def test_contenders_take_turns_and_their_samples_are_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rounds, calls = [0.0], [], []
    monkeypatch.setattr(edge.time, "perf_counter", lambda: clock[0])

    def contender(name: str) -> Callable[[int], None]:
        def run(_index: int) -> None:
            calls.append(name)
            # The machine slows down with every round, and one contender takes twice as long as the other
            clock[0] += (2 if name == "slow" else 1) * (1 + len(rounds)) / 1000

        return run

    found = edge.take_turns(
        {"slow": edge.Contender(contender("slow"), 12), "fast": edge.Contender(contender("fast"), 100)},
        seconds=0.0,
        rounds=4,
        each_round=lambda: rounds.append(len(calls)),
    )
    per_round = 3 + 25 + 2 * edge.WARM_UP
    assert rounds == [per_round * (k + 1) for k in range(4)]
    assert [name for name, _ in groupby(calls)] == ["slow", "fast"] * 4
    assert (found["slow"]["frames"], found["fast"]["frames"]) == (12, 100)
    # 1, 2, 3 and 4 ms, as many of each: the median is between 2 and 3, for both alike
    assert (found["fast"]["p50_ms"], found["slow"]["p50_ms"]) == (pytest.approx(2.5), pytest.approx(5.0))
    assert found["fast"]["p99_ms"] == pytest.approx(4.0)


def test_a_turn_lasts_its_seconds_and_goes_on_with_the_next_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, frames = [0.0], []
    monkeypatch.setattr(edge.time, "perf_counter", lambda: clock[0])

    def run(index: int) -> None:
        frames.append(index)
        clock[0] += 0.25

    assert edge.turn(run, 1.0, 2, first=7) == [250.0] * 4
    assert frames[edge.WARM_UP :] == [7, 8, 9, 10]


def test_blocks_of_anomalib_become_one() -> None:
    blocks = [
        {"version": "2.7", "ir": {"execution": "f32", **edge.quantiles([ms] * 8)}} for ms in (1.0, 9.0, 2.0)
    ]
    expected = {"execution": "f32", "p50_ms": 2.0, "p95_ms": 2.0, "p99_ms": 9.0, "frames": 24}
    assert edge.pool(blocks) == {"version": "2.7", "ir": expected}
    assert edge.pool([{}, {}]) == {}


def test_everything_is_measured_on_enough_frames(
    model: EfficientAD, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "held_streams", lambda _detector, _frames, rate: int(rate > 0))
    asked = []

    def anomalib(seconds: float) -> dict[str, Any]:
        asked.append(seconds)
        return {"anomalib_ir_default": {"execution": "f32", **edge.quantiles([125.0] * 8)}}

    frames, file = list(noise(2)), tmp_path / "frame.png"
    write_png(file, frames[0])
    graph = InspectionGraph(model, SIZE).eval()
    found = edge.measure_all(exported, graph, 1, frames, [file], 0.04, anomalib)
    assert asked == [0.01] * edge.ROUNDS
    assert found["anomalib_ir_default"]["frames"] == 8 * edge.ROUNDS >= 30
    assert found["fp32"]["execution"] == "f32"
    singles = {
        "torch": found["torch_eager_fp32"],
        "onnxruntime": found["onnxruntime_fp32"],
        **{
            f"{precision} {path}": numbers
            for precision in PRECISIONS
            for path, numbers in found[precision]["LATENCY"].items()
            if path != "images_per_s"
        },
    }
    assert len(singles) == 2 + 2 * len(PRECISIONS)
    for name, numbers in singles.items():
        assert 0 < numbers["p50_ms"] <= numbers["p95_ms"] <= numbers["p99_ms"]
        assert numbers["frames"] >= (100 if name.startswith("int8") else 30)
    few = edge.measure_few(exported, 1, frames, [file], 0.01)
    for precision, hint in itertools.product(PRECISIONS, edge.HINTS):
        for one in (found, few):
            paths = [one[precision][hint][path] for path in ("graph", "whole_path")]
            assert min(numbers["frames"] for numbers in paths) >= 10
            assert one[precision][hint]["images_per_s"] > 0
    assert found["int8"]["streams_at_10_fps"] == few["int8"]["streams_at_10_fps"] == 1
    assert set(edge.summarise(found, LIMITS)) >= {*edge.summarise(FOUND, LIMITS), "onnxruntime_fp32_p50_ms"}


@pytest.mark.parametrize(("milliseconds", "late"), [(0, 0.0), (150, 1.0)])
def test_a_frame_is_late_when_the_next_one_comes_first(milliseconds: float, late: float) -> None:
    detector: Any = SimpleNamespace(predict=lambda frame: time.sleep(milliseconds / 1000))
    assert edge.late_share(detector, [np.zeros((4, 4), np.uint8)], 2, 0.3) == pytest.approx(late, abs=0.4)


def test_operations_per_frame_are_counted(model: EfficientAD) -> None:
    # The last convolutions alone, teacher and student: 32 x 32 positions, 4 x 4 x 16 inputs
    heads = 2 * 32 * 32 * 4 * 4 * 16 * (384 + 768) / 1e9
    assert heads < edge.gflop_per_frame(InspectionGraph(model, SIZE)) < 20 * heads


def test_the_report_shows_the_chart_and_where_it_was_measured(tmp_path: Path) -> None:
    chart, result = tmp_path / "docs/images/edge.png", tmp_path / "benchmarks/results/edge.json"
    for path in (chart, result):
        path.parent.mkdir(parents=True)
    assert edge_picture(tmp_path) is None
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (420, 1700, 3), np.uint8)).save(chart)
    assert edge_picture(tmp_path) is None, "nobody says where it was measured"
    content = {"machine": "one CPU", "commit": "314e602d1f27", "date": "2026-11-26T20:40:44+00:00"}
    write_json(result, content)
    shown, smaller = edge_picture(tmp_path), edge_picture(tmp_path, 0.5)
    assert shown is not None
    assert smaller is not None
    assert shown.text == "Measured on one CPU, commit 314e602, 2026-11-26"
    assert (shown.width, smaller.width) == (1400, 700)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    params = Params.model_construct(
        seed=1,
        data=Data(root=Path("data/sample"), channels=1, classes=["patches"]),
        augment=Augment(png_level=1, photometric=False),
        report=Report(title="Plates"),
    )
    origin = Facts("2026-11-26", "7e62c17f2d", "cpu", "two cores", "abc.dir", procedural=False)
    page = render_report(tmp_path, params, origin)
    assert shown.source in page.split('<section id="export">')[1].split("</section>")[0]
    assert f"<figcaption>{shown.text}</figcaption>" in page
    write_json(result, {"date": "2026-11-26"})
    assert edge_picture(tmp_path) is None


def test_goals_that_are_missed_or_not_measured_are_said() -> None:
    figures = {"int8_over_eager_fp32": 2.73, "fp32_over_eager_fp32": 1.5, "p99_over_p50_int8": 1.6}
    rows = edge_tables.goals_table(figures)[2:]
    assert [row.split(" | ")[1:] for row in rows] == [
        ["at least 8", "2.730", "**no** |"],
        ["at least 1.5", "1.500", "yes |"],
        ["at least 2.5", "not measured", "– |"],
        ["at most 1.5", "1.600", "**no** |"],
        ["at least 0.4", "not measured", "– |"],
    ]


def test_speeds_have_one_row_per_threads_precision_and_hint() -> None:
    quantiles = {"p50_ms": 10.0, "p95_ms": 12.04, "p99_ms": 15.0, "frames": 10}
    both = {"LATENCY": {"graph": quantiles, "whole_path": quantiles, "images_per_s": 99.5}}
    details = {"threads": {"16": dict.fromkeys(PRECISIONS, both), "2": dict.fromkeys(PRECISIONS, both)}}
    rows = edge_tables.speeds_table(details)[2:]
    assert rows[0] == "| 2 | FP32 | LATENCY | 10.0, 12.0, 15.0 | 10.0, 12.0, 15.0 | 99.50 |"
    assert rows[1] == "| 2 | FP32 | THROUGHPUT | – | – | – |"
    assert [row.split(" | ")[0] for row in rows] == ["| 2"] * 6 + ["| 16"] * 6


@pytest.mark.parametrize(
    "details",
    [
        {"threads": {"1": {}, "2": {"fp16": {"execution": "bf16"}, "int8": {"execution": "bf16"}}}},
        {"steps": 600, "fp16": {"execution": "bf16"}, "int8": {"execution": "bf16"}},
        {"execution": {"fp16": "bf16", "int8": "bf16"}, "scores": {"fp16": [0.1]}},
    ],
    ids=["edge", "precisions", "agreement"],
)
def test_a_table_names_the_inference_precision(details: dict[str, Any]) -> None:
    line = "Inference precision on this CPU: FP16 in bf16, INT8's float layers in bf16."
    result = Result(
        command="python -m benchmarks.edge",
        machine="a CPU",
        commit="0123456",
        date="2026-11-27",
        figures={"int8_p50_ms": 55.0},
        details=details,
    )
    assert table(result, stale=False).splitlines()[0].endswith(f"2026-11-27. {line}")
    silent = result.model_copy(update={"details": {"threads": 2}})
    assert "precision" not in table(silent, stale=True)


def test_the_chart_names_every_runtime_and_its_share_of_the_limit() -> None:
    details = {"size": 256, "padding": False, "threads": {"1": FOUND, "2": FOUND}, "matmul_gflops": LIMITS}
    left, right = edge_chart(details, "a machine").axes
    words = " ".join(text.get_text() for text in left.texts)
    assert [name in words for name in ("torch, eager FP32", "this IR, FP16 (f32)", "400 ms")] == [True] * 3
    assert "this IR, INT8  " in words, "what an INT8 graph computes in is that of its few float layers"
    assert "onnxruntime" not in words, "what was not measured has no bar"
    assert [text.get_text() for text in right.texts] == ["50%", "50%", "40%"]
