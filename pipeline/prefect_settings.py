"""Prefect's settings for this project: its own database, no telemetry, long timeouts for slow machines.

Prefect reads the environment once, on import: call `prepare_environment` before importing Prefect.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PREFECT_DIRECTORY = ".prefect"

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    # When no server runs, Prefect starts a temporary one for the length of the run.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    # In memory, a server that is killed forgets who holds a deployment's only place: a run that goes on loses
    # it and is ended, or the place stays taken for good
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Pauses of 2, 4, 8 ... 256 s after a request that fails; flows.server waits for a server without them
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    # The default of 20 s is too short for a first start on a busy two-core machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def prepare_environment(root: Path) -> Path:
    """Set the variables above unless the user has set them, and `PREFECT_HOME` to `<root>/.prefect`.

    Returns:
        Prefect's home folder.
    """
    for variable, value in DEFAULTS.items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("PREFECT_HOME", str(root.resolve() / PREFECT_DIRECTORY))
    return Path(os.environ["PREFECT_HOME"])


def database_file() -> Path | None:
    """The SQLite file of Prefect's own server, or None if runs go to another server or database."""
    if os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL"):
        return None
    return Path(os.environ["PREFECT_HOME"]) / "prefect.db"


def migrate_database() -> None:
    """Create Prefect's database if it is missing: creating it during the first server start can time out.

    Raises:
        RuntimeError: the migration failed; the message holds Prefect's output.
    """
    file = database_file()
    if file is None or file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        file.unlink(missing_ok=True)
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stdout}{done.stderr}")
