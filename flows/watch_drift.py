"""The flow `watch-drift`: compare what the service logged with the reference, and report drift once."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.events import emit_event
from prefect.states import Completed, State

from metaldefect.metrics.drift import DriftSettings, permutations_for
from pipeline.drift_watch import PICTURE, REPORTS, forget_untold, look, read_state, table
from pipeline.notify import notify

EVENT = "drift.detected"
TIMEOUT_SECONDS = 600


@flow(name="watch-drift", timeout_seconds=TIMEOUT_SECONDS, persist_result=False)
def watch_drift(
    root: str = ".",
    bundle: str = "models/champion",
    log: str = "scores",
    min_rows: int = DriftSettings().min_rows,
    max_rows: int = DriftSettings().max_rows,
    false_alarm_rate: float = DriftSettings().false_alarm_rate,
    cooldown_hours: float = 24,
) -> State[Any]:
    """Look at the service's log once.

    Args:
        root: the project's folder.
        bundle: the model that serves.
        log: folder that the service writes with `--log`.
        min_rows: images since the last look that a decision needs.
        max_rows: images that are compared; more are thinned evenly over the time.
        false_alarm_rate: share of looks that may report drift where there is none.
        cooldown_hours: time after a report without another one.

    Returns:
        A completed state named Waiting, Cooling, Stable or Drift, with the reason.
    """
    folder = Path(root).resolve()
    settings = DriftSettings(
        min_rows=min_rows,
        max_rows=max_rows,
        false_alarm_rate=false_alarm_rate,
        permutations=max(DriftSettings().permutations, permutations_for(false_alarm_rate)),
    )
    tell(folder)  # the alarm of a run that was killed before it could tell
    found = look(folder, folder / bundle, folder / log, settings, timedelta(hours=cooldown_hours))
    get_run_logger().info("%s: %s", found.outcome, found.text)
    tell(folder)
    if found.result is not None:
        text = f"{found.text}\n\n{table(found.result.statistics)}"
        create_markdown_artifact(key="drift", markdown=text, description="The live model's log, by numbers")
        picture = base64.b64encode((folder / REPORTS / PICTURE).read_bytes()).decode("ascii")
        create_image_artifact(
            key="drift-picture",
            image_url=f"data:image/png;base64,{picture}",
            description="Reference and log; what raised the alarm has a red frame",
        )
    return Completed(name=found.outcome, message=found.text)


def tell(folder: Path) -> None:
    """Report an alarm that nobody has been told of, if there is one."""
    text = read_state(folder).untold
    if text is None:
        return
    notify("drift", text, "warning", folder)
    emit_event(
        event=EVENT,
        resource={"prefect.resource.id": "metaldefect.detector", "prefect.resource.name": folder.name},
        payload={"text": text},
    )
    forget_untold(folder)
