"""The parent MLflow run of a pipeline run's stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.run import EXPERIMENT, PARENT_RUN_VARIABLE, connect_tracking, git_commit

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


@contextmanager
def parent_run(name: str, flow_run_id: str) -> Iterator[ParentRun]:
    """Open the parent run in the current folder's store; it ends as FINISHED, FAILED or KILLED."""
    connect_tracking()
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    tags = {"git.commit": git_commit(), "prefect.flow_run_id": flow_run_id}
    run_id = client.create_run(experiment.experiment_id, run_name=name, tags=tags).info.run_id
    parent = ParentRun({PARENT_RUN_VARIABLE: run_id, FLOW_RUN_VARIABLE: flow_run_id})
    status = "KILLED"
    try:
        yield parent
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        client.set_terminated(run_id, status)
        if status == "FINISHED" and not parent.used:
            client.delete_run(run_id)
