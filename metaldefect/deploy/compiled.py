"""Compile exported graphs with OpenVINO and run them."""

from __future__ import annotations

import functools
import math
import queue
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino
from numpy.typing import NDArray

from metaldefect.deploy.graph import INPUT, OUTPUTS
from metaldefect.errors import UserError
from metaldefect.hardware import threads

PATIENCE_SECONDS = 10.0  # for one frame, before all requests are asked whether they still work

Hint = Literal["LATENCY", "THROUGHPUT"]
Scored = tuple[float, NDArray[np.float32]]


@dataclass(frozen=True)
class Compute:
    """Where and how a graph runs.

    Attributes:
        hint: `LATENCY` for one camera, `THROUGHPUT` for many images at once.
        device: an OpenVINO device, such as `CPU` or `GPU`.
        threads: CPU threads; None: `METALDEFECT_THREADS`, or all cores.
        cache: folder for compiled graphs, which makes later starts quicker; None: no cache.
    """

    hint: Hint = "LATENCY"
    device: str = "CPU"
    threads: int | None = None
    cache: Path | None = None

    def options(self, precision: str) -> dict[str, Any]:
        """OpenVINO's settings. FP32 computes in float32, the others in the machine's fastest precision."""
        options: dict[str, Any] = {"PERFORMANCE_HINT": self.hint}
        if precision == "fp32":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        if (count := self.threads or threads()) is not None:
            options["INFERENCE_NUM_THREADS"] = count
        if self.cache is not None:
            options["CACHE_DIR"] = str(self.cache)
        return options


@functools.cache
def core() -> openvino.Core:
    """OpenVINO's one core of this process."""
    made = openvino.Core()
    # Weights that are mapped from their file crash the process when somebody overwrites the file
    made.set_property({"ENABLE_MMAP": False})
    return made


class CompiledGraph:
    """A graph ready to score frames `[H, W, C]` of any size; safe to use from several threads.

    Args:
        path: the graph's `.xml`.
        precision: fp32, fp16 or int8.
        compute: where and how it runs.

    Raises:
        UserError: the device does not exist, OpenVINO cannot read or compile the graph, or the graph is no
            detector's.
    """

    def __init__(self, path: Path, precision: str, compute: Compute | None = None) -> None:
        compute = compute or Compute()
        device = compute.device.split(".")[0].split(":")[0]
        if device not in {name.split(".")[0] for name in core().available_devices} | {"AUTO"}:
            raise UserError(
                f"device {compute.device}: this machine has {', '.join(core().available_devices)}"
            )
        try:
            self.model = core().compile_model(path, compute.device, compute.options(precision))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{path} cannot be compiled for {compute.device}: {reason}") from error
        known = {name for port in (*self.model.inputs, *self.model.outputs) for name in port.names}
        if missing := {INPUT, *OUTPUTS[:2]} - known:
            raise UserError(f"{path} is no detector's graph: it lacks {', '.join(sorted(missing))}")
        count = int(self.model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(count):
            self.idle.put(self.model.create_infer_request())

    @property
    def execution(self) -> str:
        """What it computes in, such as `f32`, `bf16` or `f16`; INT8 graphs use it between INT8 layers."""
        return str(self.model.get_property("INFERENCE_PRECISION_HINT").get_type_name())

    def score(self, frame: NDArray[Any]) -> Scored:
        """Score and map `float32 [S, S]` of a frame `[H, W, C]`; waits while all requests are busy."""
        request = self.idle.get()
        try:
            request.infer({INPUT: frame[None]}, share_inputs=True)
            return result_of(request)
        finally:
            self.idle.put(request)

    def stream(self, frames: Iterable[NDArray[Any]]) -> Iterator[Scored]:
        """`score` of each frame, in order, several at once; holds only a few frames at a time."""
        jobs = openvino.AsyncInferQueue(self.model)
        jobs.set_callback(deliver)
        # Each frame stays here until its result is taken, because the queue reads it where it lies: OpenVINO
        # 2026.4's own copies write past their end when a larger frame follows a smaller one
        pending: deque[tuple[NDArray[Any], Future[Scored]]] = deque()
        try:
            for frame in frames:
                if len(pending) == 2 * len(jobs):
                    yield wait_for_result(jobs, pending.popleft()[1])
                batch, future = np.ascontiguousarray(frame[None]), Future[Scored]()
                pending.append((batch, future))
                jobs.start_async({INPUT: batch}, future, share_inputs=True)
            while pending:
                yield wait_for_result(jobs, pending.popleft()[1])
        finally:
            jobs.wait_all()


class NoScoreError(RuntimeError):
    """A graph computed no number, as half precision does where a value overflows."""


def wait_for_result(jobs: Any, future: Future[Scored]) -> Scored:
    """Wait for a frame's result; OpenVINO calls no callback after an inference that failed.

    Raises:
        RuntimeError: all requests ended, and none of them gave the result.
    """
    try:
        return future.result(timeout=PATIENCE_SECONDS)
    except TimeoutError:
        jobs.wait_all()  # raises what a request raised, where OpenVINO kept it
        if not future.done():
            raise RuntimeError("an inference of OpenVINO failed without a reason") from None
        return future.result()


def deliver(request: Any, future: Future[Scored]) -> None:
    """Hand a finished request's result to its waiting future."""
    try:
        future.set_result(result_of(request))
    except Exception as error:
        future.set_exception(error)


def result_of(request: Any) -> Scored:
    """Copy score and map out of a request, whose memory the next frame reuses.

    Raises:
        NoScoreError: the score is no number. It would pass for a good part, being above no threshold.
    """
    anomaly_map, score = (request.get_tensor(name).data for name in OUTPUTS[:2])
    if not math.isfinite(score[0]):
        raise NoScoreError(f"the graph gave {score[0]} as score: try another precision or device")
    return float(score[0]), np.array(anomaly_map[0, 0])
