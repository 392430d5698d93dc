"""Run the gate: measure both bundles now, decide, and write the verdict with its reasons and a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from metaldefect.artifacts import write_json
from metaldefect.deploy.runtime import Detector
from metaldefect.errors import UserError
from metaldefect.hardware import machine_name
from metaldefect.inspection.provider import InspectionImages
from metaldefect.metrics.comparison import Difference, compare, metric_values
from pipeline.gate import decision
from pipeline.gate.decision import Check, Running, Verdict, decide
from pipeline.gate.holdout import leaks, read_holdout
from pipeline.gate.measure import Measured, latencies, measure
from pipeline.gate.settings import Gate

VERDICT = "verdict.json"
REPORT = "verdict.md"
PICTURE = "verdict.png"
DIGITS = 6


@dataclass(frozen=True)
class Comparison:
    """All that the gate measured; `champion` is None for the first detector."""

    images: InspectionImages
    scenes: list[str]
    holdout: str
    challenger: Measured
    champion: Measured | None
    differences: dict[str, Difference]
    values: dict[str, float]
    running: tuple[Running, Running | None]
    detectors: tuple[Detector, Detector | None]


def run_gate(
    challenger: Path,
    champion: Path | None,
    holdout: Path,
    training: Path | None,
    gate: Gate,
    output: Path,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two bundles and write `verdict.json`, `verdict.md` and `verdict.png`.

    Args:
        challenger: the new bundle; one that is refused gets REJECT, with the reason.
        champion: the bundle that serves; None: there is none yet.
        holdout: folder of the locked holdout.
        training: the prepared dataset that the challenger learnt from; None: unknown, so leaks go unnoticed.
        gate: when a challenger replaces the champion.
        output: folder for the three files.
        seed: of the bootstrap.

    Returns:
        The content of `verdict.json`.

    Raises:
        UserError: the holdout or the champion is refused: without them there is no verdict.
    """
    images, locked = read_holdout(holdout)
    scenes = [item.scene for item in images]
    first = [decision.check_leak(leaks(holdout, training))] if training is not None else []
    try:
        measured, detector = measure(challenger, gate.precision, images)
    except UserError as error:
        verdict = decide([*first, Check("the bundle loads", "reject", str(error))], champion is not None)
        return publish(verdict, None, gate, locked, output)
    compared = measure_both(images, scenes, locked, (measured, detector), champion, gate, seed)
    checks = [*first, *all_checks(compared, gate)]
    return publish(decide(checks, champion is not None), compared, gate, locked, output)


def measure_both(
    images: InspectionImages,
    scenes: list[str],
    locked: str,
    challenger: tuple[Measured, Detector],
    champion: Path | None,
    gate: Gate,
    seed: int,
) -> Comparison:
    """Measure the champion too, and both detectors' latency in turns."""
    measured, detector = challenger
    old, old_detector, differences = None, None, {}
    if champion is not None:
        old, old_detector = measure(champion, gate.precision, images)
        differences = compare(
            old.scores,
            measured.scores,
            images.labels,
            scenes,
            gate.bootstrap.confidence,
            gate.bootstrap.samples,
            seed,
        )
    once = np.ones((1, len(images)))
    found = metric_values(measured.scores, np.asarray(images.labels), once)
    values = {name: float(value[0]) for name, value in found.items()}
    timed = [detector] if old_detector is None else [detector, old_detector]
    milliseconds = latencies(timed, images, gate.cost.latency_frames)
    running = Running(milliseconds[0], measured.bytes)
    old_running = None if old is None else Running(milliseconds[1], old.bytes)
    return Comparison(
        images,
        scenes,
        locked,
        measured,
        old,
        differences,
        values,
        (running, old_running),
        (detector, old_detector),
    )


def all_checks(compared: Comparison, gate: Gate) -> list[Check]:
    """Every check, in the order in which an operator asks."""
    checks = [
        Check("the bundle loads", "pass", "all files are those that were exported, and the self-test passes"),
        *decision.check_floors(compared.values, gate.floors),
        decision.check_parity(compared.challenger.changed_decisions, gate),
        *decision.check_cost(*compared.running, gate.cost),
        *decision.check_not_worse(compared.differences, gate.margins),
    ]
    return [*checks, decision.check_better(compared.differences)] if compared.differences else checks


def publish(
    verdict: Verdict, compared: Comparison | None, gate: Gate, locked: str, output: Path
) -> dict[str, Any]:
    """Write the three files; returns the content of `verdict.json`."""
    from metaldefect.figures import save_figure
    from pipeline.gate.figure import refusal_figure, verdict_figure
    from pipeline.gate.words import markdown

    content = as_json(verdict, compared, gate, locked)
    output.mkdir(parents=True, exist_ok=True)
    figure = refusal_figure(verdict) if compared is None else verdict_figure(verdict, compared, gate)
    save_figure(figure, output / PICTURE)
    (output / REPORT).write_text(markdown(content), encoding="utf-8")
    write_json(output / VERDICT, content)  # last: whoever finds it finds the others
    return content


def as_json(verdict: Verdict, compared: Comparison | None, gate: Gate, locked: str) -> dict[str, Any]:
    """The content of `verdict.json`."""
    content: dict[str, Any] = {
        "verdict": verdict.decision,
        "reason": verdict.reason,
        "checks": [asdict(check) for check in verdict.checks],
        "holdout": {"sha256": locked},
        "gate": gate.model_dump(mode="json"),
        "gate_md5": gate_md5(gate),
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine_name(),
        "challenger": None,
        "champion": None,
    }
    if compared is None:
        return content
    content["holdout"] |= {"images": len(compared.images), "scenes": len(set(compared.scenes))}
    pairs = zip(("challenger", "champion"), (compared.challenger, compared.champion), strict=True)
    for (name, measured), running in zip(pairs, compared.running, strict=True):
        if measured is not None and running is not None:
            content[name] = {
                "version": measured.version,
                "threshold": round(measured.scores.threshold, DIGITS),
                "latency_ms": round(running.latency_ms, 2),
                "bytes": running.bytes,
                "metrics": own_metrics(name, compared),
            }
    content["differences"] = {name: rounded(asdict(item)) for name, item in compared.differences.items()}
    return content


def own_metrics(name: str, compared: Comparison) -> dict[str, float]:
    """The metrics of the challenger or of the champion."""
    if name == "challenger":
        return rounded(compared.values)
    return rounded({key: item.champion for key, item in compared.differences.items()})


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Six decimals: further digits depend on summation order."""
    return {key: round(value, DIGITS) for key, value in values.items()}


def gate_md5(gate: Gate) -> str:
    """Names the gate's settings, so that verdicts of one gate can be found."""
    return hashlib.md5(gate.model_dump_json().encode()).hexdigest()
