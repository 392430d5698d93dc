"""The flow `watch-inbox`: new images join the data and start a retraining; bad ones go to quarantine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.states import Completed, State

from flows.retries import PATIENT
from pipeline.inbox import SETTLE_SECONDS, Intake, forget_untold, take_in, untold
from pipeline.notify import notify

EVENT = "data.new"
TIMEOUT_SECONDS = 3600


@flow(name="watch-inbox", timeout_seconds=TIMEOUT_SECONDS, persist_result=False)
def watch_inbox(root: str = ".", settle: float = SETTLE_SECONDS) -> State[Any]:
    """Look into `inbox/` once.

    Args:
        root: the project's folder.
        settle: seconds since the last write after which a file counts as complete.

    Returns:
        A completed state named Added, Refused, Waiting or Empty, with what happened.
    """
    folder = Path(root).resolve()
    waiting = empty_inbox(folder, settle).waiting
    # With what a look did whose run was killed before it could tell
    intake = replace(untold(folder), waiting=waiting)
    get_run_logger().info("%s", intake)
    tell(folder, intake)
    if intake.refused:
        rows = [{"file": name, "reason": reason} for name, reason in intake.refused]
        create_table_artifact(key="refused", table=rows, description="What went to quarantine, and why")
    return Completed(name=state_name(intake), message=str(intake).splitlines()[0])


def tell(folder: Path, intake: Intake) -> None:
    """Report what was refused, and start a retraining if images were added."""
    if intake.refused:
        notify(f"{len(intake.refused)} files from the inbox were refused", str(intake), "warning", folder)
    if intake.added:
        emit_event(
            event=EVENT,
            resource={"prefect.resource.id": "metaldefect.data", "prefect.resource.name": folder.name},
            payload={"images": len(intake.added), "first": list(intake.added[:10])},
        )
    forget_untold(folder)


@task(cache_policy=NO_CACHE, persist_result=False, **PATIENT)
def empty_inbox(folder: Path, settle: float) -> Intake:
    """Move what is complete; waits for DVC if a run holds it."""
    return take_in(folder, settle)


def state_name(intake: Intake) -> str:
    """One word for the run list."""
    if intake.added:
        return "Added"
    if intake.refused:
        return "Refused"
    return "Waiting" if intake.waiting else "Empty"
