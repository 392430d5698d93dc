"""The verdict: PROMOTE, HOLD or REJECT, from numbers alone.

REJECT: the challenger must not serve. HOLD: it may be as good or better, but that is not proven, so the
champion stays. PROMOTE: it is proven better, and not worse in anything that the gate looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from metaldefect.metrics.comparison import Difference
from pipeline.gate.settings import Cost, Floors, Gate, Margins

Decision = Literal["PROMOTE", "HOLD", "REJECT"]
Outcome = Literal["pass", "hold", "reject"]

# A tie has two chances to look better, each at half of what the confidence leaves.
GAINS = ("image_auroc", "balanced_accuracy")
NOT_WORSE = ("image_auroc", "detection_rate", "passed_good")
WORDS = {
    "image_auroc": "image AUROC",
    "balanced_accuracy": "balanced accuracy at the threshold",
    "detection_rate": "detection rate",
    "passed_good": "good images that pass",
}


@dataclass(frozen=True)
class Check:
    """One question of the gate and its answer.

    Attributes:
        name: what is checked.
        outcome: `pass`, or what the verdict becomes.
        detail: the numbers, in words.
    """

    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class Running:
    """What a detector costs; `latency_ms` is the median per frame, `bytes` the size of its graph."""

    latency_ms: float
    bytes: int


@dataclass(frozen=True)
class Verdict:
    """The gate's answer; `reason` is the check that decided, in one sentence."""

    decision: Decision
    reason: str
    checks: tuple[Check, ...]


def decide(checks: Sequence[Check], has_champion: bool) -> Verdict:
    """The verdict from all checks: the worst outcome decides."""
    for outcome, decision in (("reject", "REJECT"), ("hold", "HOLD")):
        found = [check for check in checks if check.outcome == outcome]
        if found:
            reason = "; ".join(f"{check.name}: {check.detail}" for check in found[:3])
            more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
            return Verdict(decision, reason + more, tuple(checks))  # type: ignore[arg-type]
    if not has_champion:
        return Verdict("PROMOTE", "the first detector: it reaches every floor", tuple(checks))
    better = next(check for check in checks if check.name == "better")
    return Verdict("PROMOTE", f"better: {better.detail}", tuple(checks))


def check_floors(values: Mapping[str, float], floors: Floors) -> Iterator[Check]:
    """Absolute limits of the challenger's own metrics (names of `comparison.metric_values`)."""
    limits = (
        ("image_auroc", values["image_auroc"], floors.image_auroc),
        ("detection_rate", values["detection_rate"], floors.detection_rate),
    )
    for name, value, floor in limits:
        yield Check(
            f"floor of {WORDS[name]}",
            "pass" if value >= floor else "reject",
            f"{value:.3f}, at least {floor:g} is needed",
        )
    alarms = 1 - values["passed_good"]
    allowed = floors.false_alarm_rate
    yield Check(
        "ceiling of false alarms",
        "pass" if alarms <= allowed + 1e-12 else "reject",
        f"{alarms:.3f} of the good images, at most {allowed:g} is allowed",
    )


def check_parity(changed: float, gate: Gate) -> Check:
    """The precision that the line runs decides as FP32 does."""
    good = changed <= gate.changed_decisions
    return Check(
        f"{gate.precision} decides as fp32",
        "pass" if good else "reject",
        f"{changed:.1%} of the images decided otherwise, at most {gate.changed_decisions:.1%} is allowed",
    )


def check_not_worse(differences: Mapping[str, Difference], margins: Margins) -> Iterator[Check]:
    """Non-inferiority, overall and per type of defect.

    A difference below the margin is a loss: REJECT. An interval that reaches below it leaves a loss possible:
    HOLD.
    """
    for name, difference in differences.items():
        metric, _, kind = name.partition("/")
        if not kind and metric not in NOT_WORSE:
            continue
        margin = margins.per_type if kind else margins.overall
        outcome: Outcome = "pass"
        if difference.low < -margin - 1e-12:
            outcome = "reject" if difference.value < -margin - 1e-12 else "hold"
        label = f"{WORDS[metric]} of {kind}" if kind else WORDS[metric]
        yield Check(f"{label} not worse", outcome, f"{shown(difference)}, margin {margin:g}")


def check_better(differences: Mapping[str, Difference]) -> Check:
    """Superiority: the whole interval of a gain lies above zero. A tie holds."""
    found = {name: differences[name] for name in GAINS}
    proven = {name: item for name, item in found.items() if item.low > 0}
    said = proven or found
    detail = "; ".join(f"{WORDS[name]} {shown(item)}" for name, item in said.items())
    return Check(
        "better", "pass" if proven else "hold", detail + ("" if proven else ": not proven, ties hold")
    )


def check_cost(challenger: Running, champion: Running | None, cost: Cost) -> Iterator[Check]:
    """Latency and size; a limit in milliseconds rejects, a ratio to the champion holds."""
    if cost.latency_ms is not None:
        yield Check(
            "latency",
            "pass" if challenger.latency_ms <= cost.latency_ms else "reject",
            f"{challenger.latency_ms:.1f} ms per frame, at most {cost.latency_ms:g} ms is allowed",
        )
    if champion is None:
        return
    ratios = (
        (
            "latency against the champion",
            challenger.latency_ms,
            champion.latency_ms,
            cost.latency_ratio,
            "ms",
        ),
        (
            "size against the champion",
            challenger.bytes / 2**20,
            champion.bytes / 2**20,
            cost.size_ratio,
            "MiB",
        ),
    )
    for name, new, old, limit, unit in ratios:
        yield Check(
            name,
            "pass" if new <= limit * old else "hold",
            f"{new:.1f} {unit} against {old:.1f} {unit}, at most {limit:g} times is allowed",
        )


def check_leak(leaked: Sequence[str]) -> Check:
    """No image of the holdout was learnt from."""
    if not leaked:
        return Check("holdout unseen", "pass", "no image of the holdout was trained on")
    return Check(
        "holdout unseen",
        "reject",
        f"the challenger learnt from {len(leaked)} images of the holdout, such as {leaked[0]}: take them out"
        " of the training data, or make a new holdout with `metaldefect holdout`",
    )


def shown(difference: Difference) -> str:
    """Both values and the interval of the difference."""
    return (
        f"{difference.challenger:.3f} against {difference.champion:.3f}"
        f" ({difference.value:+.3f}, interval {difference.low:+.3f} to {difference.high:+.3f})"
    )
