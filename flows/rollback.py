"""The flow `rollback`: let the previous champion serve again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.states import Completed, State

from flows.retrain import follow
from pipeline.champion import rollback as go_back
from pipeline.notify import notify

TIMEOUT_SECONDS = 600


@flow(name="rollback", timeout_seconds=TIMEOUT_SECONDS, persist_result=False)
def rollback(root: str = ".") -> State[Any]:
    """Let the previous champion serve again, by one rename; a second time goes forward again.

    Waits for no retraining: what serves badly is replaced at once.

    Args:
        root: the project's folder.

    Returns:
        A completed state named RolledBack, with both versions.

    Raises:
        UserError: there is no champion, or no earlier one is left.
    """
    folder = Path(root).resolve()
    before, now = go_back(folder)
    text = f"champion: {now}, before: {before}"
    notify("rolled back", text, "warning", folder)
    follow(folder)
    return Completed(name="RolledBack", message=text)
