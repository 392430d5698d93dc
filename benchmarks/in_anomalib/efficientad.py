"""Latency of anomalib's EfficientAD-S: eager, and exported as anomalib exports it. Prints one line of JSON.

A program of its own, because anomalib's pins may differ from this project's: run it with the Python of any
environment that has anomalib and openvino. It imports nothing of this project.

    python benchmarks/in_anomalib/efficientad.py --size 256 --threads 2 --seconds 6

The network is untrained (weights do not change the speed) and unpadded, anomalib's default. Its export holds
anomalib's resize, normalisation and post-processing; the frame is float32, as its inferencer makes it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import torch

WARM_UP, FEWEST = 3, 8


def latency(run: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Milliseconds at the median, 95 % and 99 % of as many runs as fit into some seconds."""
    for _ in range(WARM_UP):
        run()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < FEWEST:
        started = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - started))
    p50, p95, p99 = np.quantile(found, [0.5, 0.95, 0.99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99), "frames": len(found)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0)
    arguments = parser.parse_args()
    import anomalib
    from anomalib.models import EfficientAd

    torch.set_num_threads(arguments.threads)
    size = (arguments.size, arguments.size)
    pre_processor = EfficientAd.configure_pre_processor(image_size=size)
    model = EfficientAd(model_size="small", pre_processor=pre_processor).eval()
    image = torch.rand(1, 3, *size)
    with tempfile.TemporaryDirectory() as folder:
        graph = openvino.Core().read_model(model.to_openvino(folder, input_size=size))
    found: dict[str, Any] = {"version": anomalib.__version__}
    with torch.inference_mode():
        found["anomalib_eager_fp32"] = latency(lambda: model(image), arguments.seconds)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": arguments.threads}
    for name, more in (("fp32", {"INFERENCE_PRECISION_HINT": "f32"}), ("default", {})):
        compiled = openvino.Core().compile_model(graph, "CPU", options | more)
        frame = [image.numpy()]
        found[f"anomalib_ir_{name}"] = latency(lambda: compiled(frame), arguments.seconds)  # noqa: B023
        found[f"anomalib_ir_{name}"]["execution"] = str(
            compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
