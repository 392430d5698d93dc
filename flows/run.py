"""`python -m flows.run`: bring the whole pipeline up to date, as a Prefect flow."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaldefect.errors import UserError
from pipeline.prefect_settings import migrate_database, prepare_environment

if TYPE_CHECKING:
    from prefect.states import State


def run_pipeline(root: Path | str = ".", force: Sequence[str] = ()) -> State[Any]:
    """Run the flow on the project in `root`, in this process, and return its final state.

    Raises:
        UserError: `root` has no `dvc.yaml`.
    """
    folder = Path(root).resolve()
    if not (folder / "dvc.yaml").is_file():
        raise UserError(f"{folder / 'dvc.yaml'} does not exist: give the project's folder with --root")
    prepare_environment(folder)
    migrate_database()
    from flows.retraining import retrain  # imports Prefect, which reads the environment only once

    state: State[Any] = retrain(root=str(folder), force=list(force), return_state=True)
    return state


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if every stage is up to date, else 1."""
    parser = argparse.ArgumentParser(prog="python -m flows.run", description=__doc__)
    parser.add_argument("--root", default=".", help="the project's folder (default: the current one)")
    parser.add_argument(
        "--force", nargs="+", default=[], metavar="STAGE", help="stages to run although nothing changed"
    )
    options = parser.parse_args(arguments)
    # By default SIGTERM kills the process at once and leaves Prefect's temporary server running.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        state = run_pipeline(options.root, options.force)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if state.is_completed():
        return 0
    print(f"{state.name}: {state.message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
