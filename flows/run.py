"""`python -m flows.run`: bring the pipeline up to date, or retrain, as a Prefect flow in this process."""

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
    """Run the flow `pipeline` on the project in `root` and return its final state.

    Raises:
        UserError: `root` has no `dvc.yaml`.
    """
    folder = prepare(root)
    from flows.repro import pipeline  # imports Prefect, which reads the environment only once

    state: State[Any] = pipeline(root=str(folder), force=list(force), return_state=True)
    return state


def run_retraining(root: Path | str = ".", profile: str | None = None) -> State[Any]:
    """Run the flow `retrain` on the project in `root` and return its final state.

    Raises:
        UserError: `root` has no `dvc.yaml`.
    """
    folder = prepare(root)
    from flows.retrain import retrain

    state: State[Any] = retrain(root=str(folder), profile=profile, return_state=True)
    return state


def prepare(root: Path | str) -> Path:
    """Set Prefect's environment and database for the project; returns its absolute path."""
    folder = Path(root).resolve()
    if not (folder / "dvc.yaml").is_file():
        raise UserError(f"{folder / 'dvc.yaml'} does not exist: give the project's folder with --root")
    prepare_environment(folder)
    migrate_database()
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if the flow completed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m flows.run", description=__doc__)
    parser.add_argument("--root", default=".", help="the project's folder (default: the current one)")
    parser.add_argument(
        "--force", nargs="+", default=[], metavar="STAGE", help="stages to run although nothing changed"
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="train aside, compare with the detector that serves, promote or hold",
    )
    parser.add_argument("--profile", help="with --retrain: a name in conf/profile (default: as committed)")
    options = parser.parse_args(arguments)
    if options.retrain and options.force:
        parser.error("--force is for the pipeline in this folder, not for --retrain")
    # By default SIGTERM kills the process at once and leaves Prefect's temporary server running.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        if options.retrain:
            state = run_retraining(options.root, options.profile)
        else:
            state = run_pipeline(options.root, options.force)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if state.is_completed():
        if options.retrain:
            print(f"{state.name}: {state.message}")
        return 0
    print(f"{state.name}: {state.message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
