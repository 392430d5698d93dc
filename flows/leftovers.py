"""Clean up after retrainings that were killed: processes, git's locks, worktrees, branches, Prefect's states.

MLflow's runs are ended by `flows.tracking`.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from flows.worktree import FOLDER, remove_worktree
from pipeline.git_locks import remove_stale_locks
from pipeline.orphans import FLOW, find_orphans, processes_in, stop_all


def clean_up(root: Path, left_over: dict[str, str] | None) -> list[str]:
    """Remove what killed retrainings left; call it only while holding the lease.

    Args:
        root: the project's folder.
        left_over: what the last holder of the lease wrote down.

    Returns:
        One line per thing that was cleaned up.
    """
    trees = sorted((root / FOLDER).glob("retrain-*"))  # nothing else there is ours
    left = {process.pid: process for tree in trees for process in processes_in(tree)}
    left |= {process.pid: process for process in find_orphans(root, FLOW)}
    stopped = stop_all(left.values())
    done = [f"ended {stopped} processes of a killed run"] if stopped else []
    done += [f"removed {name}" for name in remove_stale_locks(root)]
    for tree in trees:
        remove_worktree(root, tree, branch_of(tree))
        done.append(f"removed {tree.relative_to(root)}")
    if left_over and (run_id := left_over.get("flow_run_id")):
        done += crash_flow_run(run_id)
    return done


def branch_of(tree: Path) -> str:
    """The branch of a worktree, from its folder's name: `retrain-<date>` holds `retrain/<date>`."""
    return tree.name.replace("-", "/", 1)


def crash_flow_run(flow_run_id: str) -> list[str]:
    """Let Prefect know that a flow run and its parts are gone."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    done = []
    with get_client(sync_client=True) as client:
        try:
            runs = [client.read_flow_run(UUID(flow_run_id))]
        except ObjectNotFound:  # another server's
            return []
        parts = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[UUID(flow_run_id)]))
        runs += client.read_flow_runs(flow_run_filter=parts)
        for run in runs:
            if run.state is not None and not run.state.is_final():
                client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)
                done.append(f"Prefect run {run.name} is Crashed, no longer {run.state.name}")
    return done
