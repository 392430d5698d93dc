"""`python -m benchmarks.edge`: how fast the exported detector is, and against what.

Run it alone on a quiet machine. It exports EfficientAD-S at
256 px, unpadded and untrained (weights do not change the speed), and measures:

- with all threads, one frame at a time, at the median, 95 % and 99 %: per precision, the model alone (a frame
  in memory to score and map) and the whole path (PNG file to verdict); torch in eager FP32, onnxruntime, and
  anomalib's EfficientAD-S, eager and as anomalib exports it (in this environment, or in that of
  `--anomalib-python`). They take turns in four rounds, so that a machine that slows down slows all alike. At
  least 100 frames are timed of INT8, 32 of the others;
- with 1, 2 and all threads, for both of OpenVINO's hints: the same latencies per precision, on at least 10
  frames, and images per second of a stream, which holds as many frames at once as OpenVINO wants;
- with 1, 2 and all threads, cameras with 10 frames/s each that INT8 holds (at most 1 % of the frames take
  longer than 100 ms);
- cold start from an empty process to the first verdict, self-test included, and its memory;
- the machine's limit: the rate of a 2048^3 matrix product in the same runtime and precision.

Parity and INT8's accuracy come from the last pipeline run's `metrics/evaluate_openvino.json`. What cannot be
measured is named with the reason. Writes `benchmarks/results/edge.json` and `docs/images/edge.png`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import nncf
import numpy as np
import onnxruntime
import openvino
import torch
from openvino import opset13
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.edge_chart import edge_chart
from benchmarks.results import add_results_argument, publish
from metaldefect.artifacts import read_json
from metaldefect.deploy.bundle import ONNX, PRECISIONS, Lineage
from metaldefect.deploy.compiled import Compute, Hint
from metaldefect.deploy.export import export_bundle
from metaldefect.deploy.graph import INPUT, InspectionGraph
from metaldefect.deploy.runtime import Detector
from metaldefect.efficientad.calibration import fit_map_quantiles
from metaldefect.efficientad.model_files import DetectorConfig
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.figures import save_figure
from metaldefect.hardware import cpu_name, set_threads
from metaldefect.images import U8, height_and_width, write_png
from metaldefect.procedural.images import generate_normal_image

WARM_UP = 2  # runs before each turn
ROUNDS = 4
FEWEST, FEWEST_INT8 = 32, 100  # frames that are timed one at a time with all threads
FEWEST_ELSEWHERE = 10  # frames that are timed elsewhere
FEWEST_STREAMED = 6
SIDE = 2048
CAMERA_FPS = 10
LATE_SHARE = 0.01
HINTS: tuple[Hint, ...] = ("LATENCY", "THROUGHPUT")
ACCURACY = Path("metrics/evaluate_openvino.json")
FROM_ACCURACY = ("parity_max_error", "auroc_drop_int8", "changed_decisions_int8")
FROM_ANOMALIB = ("int8_over_anomalib_ir", "anomalib_eager_fp32_p50_ms", "anomalib_ir_default_p50_ms")
CHART = Path("docs/images/edge.png")
ANOMALIB = Path(__file__).parent / "in_anomalib/efficientad.py"
COLD_START = """
import sys, time
started = time.perf_counter()
import numpy as np
import psutil
from metaldefect.deploy.compiled import Compute
from metaldefect.deploy.runtime import Detector
from metaldefect.images import height_and_width
detector = Detector.load(sys.argv[1], sys.argv[2], Compute(cache=sys.argv[3] or None))
detector.predict(np.full(height_and_width(detector.image_size), 128, np.uint8))
print(time.perf_counter() - started, psutil.Process().memory_info().rss / 2**20)
"""

Name = TypeVar("Name")


class Contender(NamedTuple):
    """One thing to time.

    Attributes:
        run: scores frame `index`, one at a time.
        frames: at least so many are timed.
    """

    run: Callable[[int], Any]
    frames: int = FEWEST


def take_turns(
    contenders: Mapping[Name, Contender],
    seconds: float,
    rounds: int = ROUNDS,
    each_round: Callable[[], None] = lambda: None,
) -> dict[Name, dict[str, float]]:
    """Latencies of contenders that take turns, so that a machine that slows down slows all of them alike.

    Args:
        contenders: by name.
        seconds: that each gets in all, or as long as its fewest frames take.
        rounds: how many turns each gets.
        each_round: called at the end of each round.

    Returns:
        By name, as `quantiles` of the samples of all turns.
    """
    samples: dict[Name, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (run, frames) in contenders.items():
            samples[name] += turn(run, seconds / rounds, math.ceil(frames / rounds), len(samples[name]))
        each_round()
    return {name: quantiles(found) for name, found in samples.items()}


def turn(run: Callable[[int], Any], seconds: float, fewest: int, first: int = 0) -> list[float]:
    """Milliseconds of each `run(index)`, from `first` on, for some seconds and at least `fewest` times.

    A few runs before them are not timed: caches and idle threads still belong to whoever ran before.
    """
    for index in range(WARM_UP):
        run(first + index)
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < fewest:
        started = time.perf_counter()
        run(first + len(found))
        found.append(1000 * (time.perf_counter() - started))
    return found


def quantiles(samples: Sequence[float]) -> dict[str, float]:
    """The median, 95 % and 99 % of milliseconds, and how many there are."""
    p50, p95, p99 = np.quantile(samples, [0.5, 0.95, 0.99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99), "frames": len(samples)}


def throughput(detector: Detector, frames: Sequence[U8], seconds: float) -> float:
    """Images per second of a stream that lasts some seconds."""
    detector.predict_batch(list(frames[:1]) * WARM_UP)
    started = time.perf_counter()

    def camera() -> Iterator[U8]:
        index = 0
        while time.perf_counter() - started < seconds or index < FEWEST_STREAMED:
            yield frames[index % len(frames)]
            index += 1

    count = sum(1 for _ in detector.stream(camera()))
    return count / (time.perf_counter() - started)


def load(bundle: Path, precision: str, hint: Hint, threads: int) -> Detector:
    """A detector that skips its self-test, which is timed as part of the cold start."""
    return Detector.load(bundle, precision, Compute(hint, threads=threads), self_test=False)


def contenders_of(
    detector: Detector, frames: Sequence[U8], files: Sequence[Path], fewest: int
) -> dict[str, Contender]:
    """The model alone (`graph`), and the whole path from a file."""
    return {
        "graph": Contender(lambda index: detector.detect(frames[index % len(frames)]), fewest),
        "whole_path": Contender(
            lambda index: detector.predict(detector.read(files[index % len(files)])), fewest
        ),
    }


def measure_all(
    bundle: Path,
    graph: InspectionGraph,
    threads: int,
    frames: Sequence[U8],
    files: Sequence[Path],
    seconds: float,
    anomalib: Callable[[float], dict[str, Any]],
) -> dict[str, Any]:
    """What is measured with all threads: latencies in turns, then images per second and cameras.

    Args:
        bundle: the exported detector.
        graph: the same in torch.
        threads: of every contender.
        frames: of the model's size.
        files: the same as PNG.
        seconds: per contender and measurement.
        anomalib: measures anomalib for some seconds (see `measure_anomalib`).
    """
    found: dict[str, Any] = {}
    contenders = others(bundle, graph, frames, threads)
    for precision in PRECISIONS:
        detector = load(bundle, precision, "LATENCY", threads)
        found[precision] = {"execution": detector.graph.execution, "LATENCY": {}}
        fewest = FEWEST_INT8 if precision == "int8" else FEWEST
        for path, contender in contenders_of(detector, frames, files, fewest).items():
            contenders[f"{precision} {path}"] = contender
    blocks: list[dict[str, Any]] = []
    timed = take_turns(contenders, seconds, each_round=lambda: blocks.append(anomalib(seconds / ROUNDS)))
    for name, numbers in timed.items():
        precision, _, path = name.partition(" ")
        if path:
            found[precision]["LATENCY"][path] = numbers
        else:
            found[name] = numbers
    found |= pool(blocks)
    for precision in PRECISIONS:
        detector = load(bundle, precision, "LATENCY", threads)
        found[precision]["LATENCY"]["images_per_s"] = throughput(detector, frames, seconds)
    for precision, numbers in measure_hint(bundle, "THROUGHPUT", threads, frames, files, seconds).items():
        found[precision]["THROUGHPUT"] = numbers
    found["int8"]["streams_at_10_fps"] = most_streams(bundle, threads, frames, found["int8"])
    return found


def measure_few(
    bundle: Path, threads: int, frames: Sequence[U8], files: Sequence[Path], seconds: float
) -> dict[str, Any]:
    """What is measured with fewer threads than all: both hints of each precision, and cameras.

    Arguments as for `measure_all`.
    """
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        found[precision] = {"execution": load(bundle, precision, "LATENCY", threads).graph.execution}
    for hint in HINTS:
        for precision, numbers in measure_hint(bundle, hint, threads, frames, files, seconds).items():
            found[precision][hint] = numbers
    found["int8"]["streams_at_10_fps"] = most_streams(bundle, threads, frames, found["int8"])
    return found


def measure_hint(
    bundle: Path, hint: Hint, threads: int, frames: Sequence[U8], files: Sequence[Path], seconds: float
) -> dict[str, dict[str, Any]]:
    """By precision: `graph` and `whole_path`, latencies in turns of one frame at a time, and `images_per_s`.

    Args:
        bundle: the exported detector.
        hint: OpenVINO's.
        threads: OpenVINO's.
        frames: of the model's size.
        files: the same as PNG.
        seconds: per latency and per stream; short, because there are many.
    """
    detectors = {precision: load(bundle, precision, hint, threads) for precision in PRECISIONS}
    contenders = {
        (precision, path): contender
        for precision, detector in detectors.items()
        for path, contender in contenders_of(detector, frames, files, FEWEST_ELSEWHERE).items()
    }
    found: dict[str, dict[str, Any]] = {precision: {} for precision in PRECISIONS}
    for (precision, path), numbers in take_turns(contenders, seconds, rounds=1).items():
        found[precision][path] = numbers
    for precision, detector in detectors.items():
        found[precision]["images_per_s"] = throughput(detector, frames, seconds)
    return found


def most_streams(bundle: Path, threads: int, frames: Sequence[U8], rates: Mapping[str, Any]) -> int:
    """The most cameras that INT8 keeps up with, by the better hint.

    Args:
        bundle: the exported detector.
        threads: OpenVINO's.
        frames: what the cameras see.
        rates: the `images_per_s` of each hint.
    """
    return max(
        held_streams(load(bundle, "int8", hint, threads), frames, rates[hint]["images_per_s"])
        for hint in HINTS
    )


def held_streams(detector: Detector, frames: Sequence[U8], images_per_s: float, seconds: float = 4.0) -> int:
    """Most cameras with 10 frames/s whose frames are scored before the next one comes, measured.

    Args:
        detector: shared by all cameras.
        frames: what they see.
        images_per_s: no more cameras are tried than this rate could serve.
        seconds: how long each number of cameras runs.
    """
    for cameras in range(max(1, int(images_per_s // CAMERA_FPS)), 0, -1):
        if late_share(detector, frames, cameras, seconds) <= LATE_SHARE:
            return cameras
    return 0


def late_share(detector: Detector, frames: Sequence[U8], cameras: int, seconds: float) -> float:
    """Share of frames that are answered more than one interval after the camera took them."""
    interval = 1 / CAMERA_FPS
    begin = time.perf_counter() + interval

    def watch(camera: int) -> list[bool]:
        late = []
        for number in range(round(seconds * CAMERA_FPS)):
            taken = begin + (number + camera / cameras) * interval
            time.sleep(max(0.0, taken - time.perf_counter()))
            detector.predict(frames[number % len(frames)])
            late.append(time.perf_counter() - taken > interval)
        return late

    with ThreadPoolExecutor(cameras) as pool:
        return float(np.mean([each for late in pool.map(watch, range(cameras)) for each in late]))


def others(bundle: Path, graph: InspectionGraph, frames: Sequence[U8], threads: int) -> dict[str, Contender]:
    """torch and onnxruntime, on frames of the model's size."""
    torch.set_num_threads(threads)
    tensors = [frame[None, :, :, None] for frame in frames]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(bundle / ONNX, options, providers=["CPUExecutionProvider"])

    def eager(index: int) -> None:
        with torch.inference_mode():
            graph(torch.from_numpy(tensors[index % len(tensors)]))

    def runtime(index: int) -> None:
        session.run(None, {INPUT: tensors[index % len(tensors)]})

    return {"torch_eager_fp32": Contender(eager), "onnxruntime_fp32": Contender(runtime)}


def measure_anomalib(python: str | None, size: int, threads: int, seconds: float) -> dict[str, Any]:
    """What `benchmarks/in_anomalib/efficientad.py` prints; nothing without anomalib."""
    if python is None:
        return {}
    numbers = ["--size", str(size), "--threads", str(threads), "--seconds", str(seconds)]
    done = subprocess.run([python, str(ANOMALIB), *numbers], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} {ANOMALIB.name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def pool(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One block of several that `measure_anomalib` returned.

    They hold no samples but quantiles: the medians' and the 95 % values' median, and the largest 99 % value.
    """
    pooled: dict[str, Any] = dict(blocks[-1])
    for name, last in pooled.items():
        if isinstance(last, Mapping) and "p50_ms" in last:
            numbers = [block[name] for block in blocks]
            pooled[name] = dict(last) | {
                "p50_ms": float(np.median([each["p50_ms"] for each in numbers])),
                "p95_ms": float(np.median([each["p95_ms"] for each in numbers])),
                "p99_ms": max(each["p99_ms"] for each in numbers),
                "frames": sum(each["frames"] for each in numbers),
            }
    return pooled


def matmul_gflops(precision: str, threads: int, seconds: float = 1.0) -> float:
    """Measured rate of a 2048^3 matrix product in OpenVINO: FP32, the machine's default (fp16), or INT8."""
    rng = np.random.default_rng(0)
    weights, values = (rng.normal(size=(SIDE, SIDE)).astype(np.float32) for _ in range(2))
    parameter = opset13.parameter([SIDE, SIDE], openvino.Type.f32)
    product = opset13.matmul(parameter, opset13.constant(weights), False, False)
    model = openvino.Model([product], [parameter], "product")
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if precision == "fp32":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    if precision == "int8":
        model = nncf.quantize(model, nncf.Dataset([values]), subset_size=1)
    compiled = openvino.Core().compile_model(model, "CPU", options)
    samples = turn(lambda _index: compiled([values]), seconds, FEWEST_ELSEWHERE)
    return 2 * SIDE**3 / quantiles(samples)["p50_ms"] / 1e6


def gflop_per_frame(graph: InspectionGraph) -> float:
    """Floating-point operations of one frame, in 1e9; a multiplication and an addition are two."""
    frame = torch.zeros(1, *height_and_width(graph.size), 1, dtype=graph.dtype)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        graph(frame)
    return counter.get_total_flops() / 1e9


def cold_start(bundle: Path, precision: str, cache: Path | str = "") -> tuple[float, float]:
    """(seconds, MiB) from an empty process to the first verdict, self-test included."""
    command = [sys.executable, "-c", COLD_START, str(bundle), precision, str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = done.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def summarise(found: dict[str, Any], limits: dict[str, float]) -> dict[str, float]:
    """The figures of one number of threads.

    Args:
        found: by precision and runtime, as `measure_*` return them.
        limits: `gflop` per frame, and the matrix product's `fp32`, `fp16` and `int8` GFLOP/s.
    """
    figures = {}
    eager = found["torch_eager_fp32"]["p50_ms"]
    for precision in PRECISIONS:
        single = found[precision]["LATENCY"]
        figures[f"{precision}_p50_ms"] = single["graph"]["p50_ms"]
        figures[f"{precision}_whole_path_p50_ms"] = single["whole_path"]["p50_ms"]
        figures[f"{precision}_images_per_s"] = found[precision]["THROUGHPUT"]["images_per_s"]
        figures[f"{precision}_over_eager_fp32"] = eager / single["graph"]["p50_ms"]
        rate = limits["gflop"] * 1000 / single["graph"]["p50_ms"]
        figures[f"matmul_share_{precision}"] = rate / limits[precision]
    fast = found["int8"]["LATENCY"]["graph"]
    figures["p99_over_p50_int8"] = fast["p99_ms"] / fast["p50_ms"]
    figures["streams_at_10_fps"] = found["int8"]["streams_at_10_fps"]
    figures["gflop_per_frame"] = limits["gflop"]
    for name in ("torch_eager_fp32", "onnxruntime_fp32", "anomalib_eager_fp32", "anomalib_ir_default"):
        if name in found:
            figures[f"{name}_p50_ms"] = found[name]["p50_ms"]
    if "anomalib_ir_default" in found:
        figures["int8_over_anomalib_ir"] = found["anomalib_ir_default"]["p50_ms"] / fast["p50_ms"]
    return figures


def accuracy_figures(path: Path) -> dict[str, float]:
    """Parity and INT8's cost, as the last pipeline run measured them on its test images."""
    if not path.is_file():
        return {}
    found = read_json(path)
    names = {"auroc_drop_int8": "auroc_drop", "changed_decisions_int8": "changed_decisions"}
    figures = {name: found["int8"][key] for name, key in names.items() if key in found["int8"]}
    return figures | {"parity_max_error": found["parity"]["max_abs_error"]}


def not_measured(figures: Mapping[str, float], accuracy: Path) -> dict[str, str]:
    """The figures that are absent because something is not here, and the reason of each."""
    without_anomalib = "anomalib is not installed: name a Python that has it with --anomalib-python"
    if accuracy.is_file():
        without_accuracy = f"{accuracy} has no such figure: the run had no good and defective test images"
    else:
        without_accuracy = f"{accuracy} does not exist: run `dvc repro evaluate_openvino`"
    reasons = dict.fromkeys(FROM_ANOMALIB, without_anomalib) | dict.fromkeys(FROM_ACCURACY, without_accuracy)
    return {name: reason for name, reason in reasons.items() if name not in figures}


def export_untrained(folder: Path, size: int, frames: U8) -> InspectionGraph:
    """Export an untrained EfficientAD-S without padding into a new folder; returns the graph."""
    torch.manual_seed(0)
    model = EfficientAD("S", padding=False).eval()
    fit_map_quantiles(model, frames)
    graph = InspectionGraph(model, size).eval()
    config = DetectorConfig("S", False, size, 1.0, 0.5, "untrained")
    folder.mkdir()
    known = [1.0] * len(frames)
    # Untrained, it finds no defect, so there is no accuracy that INT8 could lose
    export_bundle(graph, config, folder, frames, frames, known, Lineage(), max_auroc_drop=1.0)
    return graph


def measure(
    folder: Path, size: int, seconds: float, python: str | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """All figures, and the details of every number of threads."""
    most = torch.get_num_threads()
    frames = [generate_normal_image(np.random.default_rng(seed), size) for seed in range(8)]
    files = [folder / f"{index}.png" for index in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        write_png(file, frame)
    bundle = folder / "bundle"
    graph = export_untrained(bundle, size, np.stack(frames[:4]))
    details: dict[str, Any] = {"size": size, "padding": False, "threads": {}}
    for threads in tqdm(thread_counts(most), desc="threads"):
        if threads == most:
            anomalib = partial(measure_anomalib, python, size, threads)
            found = measure_all(bundle, graph, threads, frames, files, seconds, anomalib)
        else:
            found = measure_few(bundle, threads, frames, files, seconds)
        details["threads"][str(threads)] = found
    limits = {name: matmul_gflops(name, most) for name in PRECISIONS}
    limits["gflop"] = gflop_per_frame(graph)
    details["matmul_gflops"] = limits
    figures = summarise(details["threads"][str(most)], limits)
    figures["streams_at_10_fps_1_thread"] = details["threads"]["1"]["int8"]["streams_at_10_fps"]
    starts = {name: cold_start(bundle, name) for name in PRECISIONS}
    cold_start(bundle, "int8", folder / "cache")
    starts["int8_cached"] = cold_start(bundle, "int8", folder / "cache")
    details["cold_start"] = {name: {"seconds": s, "memory_mb": mb} for name, (s, mb) in starts.items()}
    figures["cold_start_s"], figures["memory_mb"] = starts["int8"]
    figures["cold_start_cached_s"] = starts["int8_cached"][0]
    figures |= accuracy_figures(ACCURACY)
    details["not_measured"] = not_measured(figures, ACCURACY)
    return figures, details


def thread_counts(most: int) -> list[int]:
    """The numbers of threads to measure: one, two, and as many as the machine gives."""
    return sorted({1, min(2, most), most})


def main() -> None:
    """Measure, publish and draw."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.edge",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--size", type=int, default=256, help="px (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement (default: %(default)s)")
    parser.add_argument(
        "--anomalib-python",
        default=sys.executable if importlib.util.find_spec("anomalib") else None,
        metavar="PYTHON",
        help="Python of an environment that has anomalib",
    )
    parser.add_argument("--chart", type=Path, default=CHART, metavar="FILE", help="default: %(default)s")
    add_results_argument(parser, "edge")
    arguments = parser.parse_args()
    set_threads()
    with tempfile.TemporaryDirectory(prefix="edge-") as folder:
        figures, details = measure(Path(folder), arguments.size, arguments.seconds, arguments.anomalib_python)
    for name, reason in details["not_measured"].items():
        print(f"not measured: {name}: {reason}")
    save_figure(edge_chart(details, cpu_name()), arguments.chart)
    publish(arguments.results, "edge", figures, details)


if __name__ == "__main__":
    main()
