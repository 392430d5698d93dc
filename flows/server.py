"""Prefect's server may be away for minutes: flows ask it once, without pauses, and wait until it answers.

Prefect's client doubles its pause after each failed try, and a flow that is inside such a pause notices
neither that its stages have ended nor that the server is back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.limits import TimeLimit

POLL_SECONDS = 1.0


@contextmanager
def impatient_client() -> Iterator[SyncPrefectClient]:
    """A client whose requests fail at once if the server does not answer."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        yield client


def answers() -> bool:
    """Whether Prefect's server answers now."""
    with impatient_client() as client:
        return client.api_healthcheck() is None


def is_cancelled(run_ids: Iterable[str | None]) -> bool:
    """Whether somebody has cancelled one of these flow runs; a dead server ends no training."""
    with impatient_client() as client:
        for run_id in filter(None, run_ids):
            try:
                state = client.read_flow_run(UUID(run_id)).state
            except Exception:
                return False
            if state is not None and (state.is_cancelling() or state.is_cancelled()):
                return True
    return False


def wait_for_server(limit: TimeLimit) -> None:
    """Return once Prefect's server answers, or when the flow's time is over.

    Call it before anything that the server must know: a state, an artifact, the run of a flow.
    """
    is_reported = False
    while not answers() and limit.left > 0:
        if not is_reported:
            get_run_logger().warning("Prefect's server does not answer: waiting for it")
        is_reported = True
        time.sleep(POLL_SECONDS)
