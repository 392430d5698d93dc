"""`python -m benchmarks.edge`: how fast the exported detector is, and against what.

Run it alone on a quiet machine. It measures, for each precision and number of threads, the latency of a frame
(the graph alone, and the whole path from a PNG file to the verdict) and the images per second of the
THROUGHPUT hint; against torch in eager FP32, onnxruntime and, if it is installed, anomalib's EfficientAD-S as
its export computes it (same image size, unpadded, untrained: weights do not change the speed). The machine's
limit is a matrix product of 2048^3 in the same runtime and precision. Writes `benchmarks/results/edge.json`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnxruntime
import openvino
import torch
from openvino import opset13
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.results import add_results_argument, publish
from metaldefect.artifacts import read_json
from metaldefect.deploy.bundle import ONNX, PRECISIONS
from metaldefect.deploy.compiled import Compute
from metaldefect.deploy.golden import read_golden_frames
from metaldefect.deploy.graph import INPUT, InspectionGraph
from metaldefect.deploy.runtime import Detector
from metaldefect.efficientad.model_files import load_detector
from metaldefect.hardware import set_threads
from metaldefect.images import U8, height_and_width, read_grey, write_png

WARM_UP = 5
SIDE = 2048
CAMERA_FPS = 10
ACCURACY = Path("metrics/evaluate_openvino.json")
COLD_START = """
import sys, time
started = time.perf_counter()
import numpy as np
import psutil
from metaldefect.deploy.runtime import Detector
from metaldefect.images import height_and_width
detector = Detector.load(sys.argv[1], sys.argv[2])
detector.predict(np.full(height_and_width(detector.image_size), 128, np.uint8))
print(time.perf_counter() - started, psutil.Process().memory_info().rss / 2**20)
"""


def latency(run: Callable[[int], Any], count: int) -> dict[str, float]:
    """Milliseconds of `run(index)` at the median, 95 % and 99 %, after a few warm-up runs."""
    for index in range(WARM_UP):
        run(index)
    seconds = np.empty(count)
    for index in range(count):
        started = time.perf_counter()
        run(index)
        seconds[index] = time.perf_counter() - started
    p50, p95, p99 = 1000 * np.quantile(seconds, [0.5, 0.95, 0.99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def throughput(detector: Detector, frames: list[U8], count: int) -> float:
    """Images per second of a stream."""
    detector.predict_batch(frames[:1] * WARM_UP)
    started = time.perf_counter()
    for _ in detector.stream(frames[index % len(frames)] for index in range(count)):
        pass
    return count / (time.perf_counter() - started)


def measure_precision(
    bundle: Path, precision: str, threads: int, frames: list[U8], files: list[Path], count: int
) -> dict[str, Any]:
    """Latencies and images per second of one precision with a number of threads."""
    detector = Detector.load(bundle, precision, Compute("LATENCY", threads=threads), self_test=False)
    many = Detector.load(bundle, precision, Compute("THROUGHPUT", threads=threads), self_test=False)

    def whole_path(index: int) -> None:
        detector.predict(read_grey(files[index % len(files)]))

    return {
        "execution": detector.graph.execution,
        "graph": latency(lambda index: detector.detect(frames[index % len(frames)]), count),
        "whole_path": latency(whole_path, count),
        "images_per_s": throughput(many, frames, count),
    }


def measure_others(
    bundle: Path, graph: InspectionGraph, frames: list[U8], threads: int, count: int
) -> dict[str, Any]:
    """Latencies of torch, onnxruntime and, if it is installed, anomalib, on frames of the model's size."""
    torch.set_num_threads(threads)
    tensors = [frame[None, :, :, None] for frame in frames]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(bundle / ONNX, options, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        found = {
            "torch_eager_fp32": latency(
                lambda index: graph(torch.from_numpy(tensors[index % len(tensors)])), count
            ),
            "onnxruntime_fp32": latency(
                lambda index: session.run(None, {INPUT: tensors[index % len(tensors)]}), count
            ),
        }
    if importlib.util.find_spec("anomalib") is not None:
        found["anomalib_ir"] = measure_anomalib(height_and_width(graph.size), threads, count)
    return found


def measure_anomalib(size: tuple[int, int], threads: int, count: int) -> dict[str, float]:
    """Latency of anomalib's EfficientAD-S, exported as anomalib does, in the machine's default precision."""
    module = importlib.import_module("anomalib.models.image.efficient_ad.torch_model")
    kind = module.EfficientAdModelSize.S
    network = module.EfficientAdModel(teacher_out_channels=384, model_size=kind, padding=False).eval()
    image = torch.zeros(1, 3, *size)
    model = openvino.convert_model(network, example_input=image, input=[1, 3, *size])
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return latency(lambda _index: compiled([image.numpy()]), count)


def matmul_gflops(precision: str, threads: int, repeats: int = 10) -> float:
    """Measured rate of a 2048^3 matrix product in FP32 or INT8, in OpenVINO."""
    rng = np.random.default_rng(0)
    weights, values = (rng.normal(size=(SIDE, SIDE)).astype(np.float32) for _ in range(2))
    parameter = opset13.parameter([SIDE, SIDE], openvino.Type.f32)
    product = opset13.matmul(parameter, opset13.constant(weights), False, False)
    model = openvino.Model([product], [parameter], "product")
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    if precision == "int8":
        model = nncf.quantize(model, nncf.Dataset([values]), subset_size=1)
    compiled = openvino.Core().compile_model(model, "CPU", options)
    median = latency(lambda _index: compiled([values]), repeats)["p50_ms"]
    return 2 * SIDE**3 / median / 1e6


def gflop_per_frame(graph: InspectionGraph) -> float:
    """Floating-point operations of one frame, in 1e9; a multiplication and an addition are two."""
    frame = torch.zeros(1, *height_and_width(graph.size), 1, dtype=graph.dtype)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        graph(frame)
    return counter.get_total_flops() / 1e9


def cold_start(bundle: Path, precision: str) -> tuple[float, float]:
    """(seconds, MiB) from an empty process to the first verdict, self-test included."""
    command = [sys.executable, "-c", COLD_START, str(bundle), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = done.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def summarise(rows: dict[str, Any], others: dict[str, Any], limits: dict[str, float]) -> dict[str, float]:
    """The figures with all threads.

    Args:
        rows: by precision, as `measure_precision` returns them.
        others: as `measure_others` returns them.
        limits: `gflop` per frame, and the matrix product's `fp32` and `int8` GFLOP/s.
    """
    figures = {}
    for precision, row in rows.items():
        figures[f"{precision}_p50_ms"] = row["graph"]["p50_ms"]
        figures[f"{precision}_whole_path_p50_ms"] = row["whole_path"]["p50_ms"]
        figures[f"{precision}_images_per_s"] = row["images_per_s"]
        figures[f"{precision}_over_eager_fp32"] = (
            others["torch_eager_fp32"]["p50_ms"] / row["graph"]["p50_ms"]
        )
    for precision in ("fp32", "int8"):
        rate = limits["gflop"] * 1000 / rows[precision]["graph"]["p50_ms"]
        figures[f"matmul_share_{precision}"] = rate / limits[precision]
    figures["p99_over_p50_int8"] = rows["int8"]["graph"]["p99_ms"] / rows["int8"]["graph"]["p50_ms"]
    figures["streams_at_10_fps"] = float(rows["int8"]["images_per_s"] // CAMERA_FPS)
    figures["gflop_per_frame"] = limits["gflop"]
    if "anomalib_ir" in others:
        figures["int8_over_anomalib_ir"] = others["anomalib_ir"]["p50_ms"] / rows["int8"]["graph"]["p50_ms"]
    return figures


def accuracy_figures(path: Path) -> dict[str, float]:
    """Parity and INT8's cost, as the last pipeline run measured them on its test images."""
    if not path.is_file():
        return {}
    found = read_json(path)
    names = {"auroc_drop_int8": "auroc_drop", "changed_decisions_int8": "changed_decisions"}
    figures = {name: found["int8"][key] for name, key in names.items() if key in found["int8"]}
    return figures | {"parity_max_error": found["parity"]["max_abs_error"]}


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.edge",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/openvino"))
    parser.add_argument("--detector", type=Path, default=Path("models/detector"))
    parser.add_argument("--frames", type=int, default=100, help="timed frames per measurement")
    add_results_argument(parser, "edge")
    arguments = parser.parse_args()
    set_threads()
    threads = torch.get_num_threads()
    model, config = load_detector(arguments.detector)
    graph = InspectionGraph(model, config.image_size, config.levels, config.channels).eval()
    metadata = Detector.load(arguments.bundle, "fp32", self_test=False).metadata
    golden = read_golden_frames(arguments.bundle, metadata)
    frames = [frame[..., 0] for frame in golden if frame.shape[:2] == (graph.size, graph.size)]
    folder = arguments.results.parent / ".edge_frames"
    files = [folder / f"{index}.png" for index in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        write_png(file, frame)
    details: dict[str, Any] = {"threads": {}}
    for count in tqdm(sorted({1, threads}), desc="threads"):
        details["threads"][str(count)] = {
            precision: measure_precision(arguments.bundle, precision, count, frames, files, arguments.frames)
            for precision in PRECISIONS
        } | measure_others(arguments.bundle, graph, frames, count, arguments.frames)
    for file in files:
        file.unlink()
    folder.rmdir()
    limits = {name: matmul_gflops(name, threads) for name in ("fp32", "int8")}
    limits["gflop"] = gflop_per_frame(graph)
    found = details["threads"][str(threads)]
    figures = summarise({name: found[name] for name in PRECISIONS}, found, limits)
    figures["cold_start_s"], figures["memory_mb"] = cold_start(arguments.bundle, "int8")
    figures |= accuracy_figures(ACCURACY)
    details["matmul_gflops"] = limits
    publish(arguments.results, "edge", figures, details)


if __name__ == "__main__":
    main()
