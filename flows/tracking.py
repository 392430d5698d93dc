"""The parent MLflow run of a pipeline run's stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger

from pipeline.dead_runs import TAG, close_dead_runs, process_tag
from pipeline.parent import describe_parent
from pipeline.profiles import PARAMS
from pipeline.run import EXPERIMENT, PARENT_RUN_VARIABLE, connect_tracking, git_commit, run_name

FLOW_RUN_VARIABLE = "METALDEFECT_FLOW_RUN_ID"


@dataclass
class ParentRun:
    """A pipeline's run in MLflow.

    Attributes:
        environment: variables that tell a stage's process which run is its parent.
        used: set it when a stage really ran; a run without children is deleted at the end.
    """

    environment: dict[str, str]
    used: bool = False

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.environment[PARENT_RUN_VARIABLE]


@contextmanager
def parent_run(kind: str, flow_run_id: str, folder: Path, within: str | None = None) -> Iterator[ParentRun]:
    """Open the parent run in the current folder's store; it ends as FINISHED, FAILED or KILLED.

    If it cannot be described or ended, that is a warning: the next run ends it.

    Args:
        kind: what runs: `pipeline` or `retrain`.
        flow_run_id: of Prefect.
        folder: where the stages run: its metrics and settings are logged at the end.
        within: id of a parent run that is open already: it is used, and stays open.
    """
    if within is not None:
        yield ParentRun(stage_environment(within, flow_run_id))
        return
    experiment = experiment_without_dead_runs()
    import mlflow

    client = mlflow.MlflowClient()
    tags = {"git.commit": git_commit(), "prefect.flow_run_id": flow_run_id, TAG: process_tag()}
    run_id = client.create_run(experiment, run_name=run_name(kind), tags=tags).info.run_id
    parent = ParentRun(stage_environment(run_id, flow_run_id))
    status = "KILLED"
    try:
        yield parent
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        # What the run was for is done or has failed already: MLflow's answer changes neither
        if status == "FINISHED" and parent.used and (folder / PARAMS).is_file():
            warn_of_failure("the run's description in MLflow is incomplete", lambda: describe(run_id, folder))
        warn_of_failure("MLflow's run still says Running", lambda: client.set_terminated(run_id, status))
        if status == "FINISHED" and not parent.used:
            warn_of_failure("MLflow keeps an empty run", lambda: client.delete_run(run_id))


def end_dead_runs(folder: Path) -> None:
    """End the MLflow runs of killed processes in a project's store, as each parent run does at its start."""
    with chdir(folder):
        experiment_without_dead_runs()


def experiment_without_dead_runs() -> str:
    """Connect to the current folder's store and end the runs of killed processes; the experiment's id."""
    connect_tracking()
    import mlflow

    experiment = mlflow.MlflowClient().get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    close_dead_runs(experiment.experiment_id)
    return str(experiment.experiment_id)


def describe(run_id: str, folder: Path) -> None:
    """Log metrics and settings of the project in a folder to its run."""
    with chdir(folder):
        describe_parent(run_id)


def warn_of_failure(consequence: str, action: Callable[[], object]) -> None:
    """Do something that may fail, such as a request to a server; a failure is a warning."""
    try:
        action()
    except Exception as error:
        get_run_logger().warning("%s: %s", consequence, error)


def stage_environment(run_id: str, flow_run_id: str) -> dict[str, str]:
    """The variables that tell a stage's process where it belongs."""
    return {PARENT_RUN_VARIABLE: run_id, FLOW_RUN_VARIABLE: flow_run_id}
