"""What a service counts for Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from metaldefect.deploy.runtime import Detection

SCORES = (-0.2, -0.1, 0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 2, 5)


class Metrics:
    """Prometheus metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        keep: dict[str, Any] = {"registry": self.registry}
        self.latency = Histogram(
            "metaldefect_latency_seconds", "Seconds from the body's last byte to the verdict", **keep
        )
        self.scores = Histogram("metaldefect_score", "Scores of images", buckets=SCORES, **keep)
        self.decisions = Counter("metaldefect_decisions", "Verdicts", ["verdict"], **keep)
        self.feedback = Counter("metaldefect_feedback", "Operators' verdicts", ["verdict"], **keep)
        self.refused = Counter("metaldefect_refused", "Refused images and requests", ["status"], **keep)
        self.swaps = Counter("metaldefect_swaps", "Reloads and rollbacks", **keep)
        self.shadow = Counter("metaldefect_shadow", "Frames shown to a challenger", ["decisions"], **keep)
        self.unlogged = Counter("metaldefect_unlogged", "Verdicts whose row or image was not kept", **keep)
        self.model = Gauge("metaldefect_model_info", "The model in use", ["version"], **keep)

    def use(self, version: str) -> None:
        """Say which model is in use."""
        self.model.clear()
        self.model.labels(version).set(1)

    def decide(self, detection: Detection) -> None:
        """Count a verdict and its score."""
        self.scores.observe(detection.score)
        self.decisions.labels("anomalous" if detection.is_anomalous else "normal").inc()

    def compare(self, champion: Detection, challenger: Detection | None) -> None:
        """Count whether a challenger agrees; None: it did not score the frame."""
        if challenger is None:
            self.shadow.labels("skipped").inc()
            return
        same = champion.is_anomalous == challenger.is_anomalous
        self.shadow.labels("equal" if same else "different").inc()
