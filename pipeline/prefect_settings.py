"""Prefect's settings for this project: its own database, no telemetry, time to start on a slow machine.

Prefect reads its environment once, when it is imported: call `prepare_environment` before that.
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
    # Without a server of one's own Prefect starts one for the length of the run.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    # 20 s is not enough for a first start on a busy two-core machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def prepare_environment(root: Path) -> Path:
    """Set the variables above where the user has not, and `PREFECT_HOME` to `<root>/.prefect`.

    Returns:
        Prefect's home folder.
    """
    for variable, value in DEFAULTS.items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("PREFECT_HOME", str(root.resolve() / PREFECT_DIRECTORY))
    return Path(os.environ["PREFECT_HOME"])


def database_file() -> Path | None:
    """The SQLite file of Prefect's own server; None where runs go to another server or database."""
    if os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL"):
        return None
    return Path(os.environ["PREFECT_HOME"]) / "prefect.db"


def migrate_database() -> None:
    """Make Prefect's database where it is missing, so that the first server start is not a timeout.

    Raises:
        RuntimeError: with what Prefect said.
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
