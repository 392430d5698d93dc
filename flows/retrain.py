"""The flow `retrain`: train aside, compare with the champion, then promote or hold.

Everything that trains happens in a git worktree of its own. The project's folder changes at two places: the
verdict's folder under `reports/retrain/`, and, after a passed gate, the link `models/champion`.
"""

from __future__ import annotations

import base64
import os
import shutil
import sys
from collections import deque
from contextlib import chdir
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import Any

from dvc.lock import LockError
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.states import Completed, State

from flows.judged import (
    Judged,
    carried_out_untold,
    forget_pending,
    inputs_md5,
    judge,
    note_pending,
    remember_verdict,
    why_not_again,
)
from flows.lease import lease
from flows.leftovers import clean_up
from flows.limits import LIMIT_HOURS, TimeLimit, TimeLimitError
from flows.processes import ChildProcesses, StoppedError
from flows.repro import child_environment, pipeline
from flows.retries import patiently
from flows.server import wait_for_server
from flows.summary import cause
from flows.tracking import ParentRun, end_dead_runs, parent_run, warn_of_failure
from flows.worktree import (
    add_changed_data,
    add_worktree,
    commit,
    raw_dependencies,
    remove_worktree,
    uncommitted,
    worktree_path,
)
from metaldefect.artifacts import read_json
from metaldefect.deploy.bundle import bundle_version
from metaldefect.errors import UserError
from pipeline.champion import current, hold, promote
from pipeline.notify import Level, notify
from pipeline.temporary import TemporaryFailureError

BUNDLE = Path("models/openvino")
INSPECTION = Path("data/merged/inspection")
HOLDOUT_CARD = Path("data/holdout.json")
REPORTS = Path("reports/retrain")
EVENT = "retrain.verdict"
STATES = {"PROMOTE": "Promoted", "HOLD": "Held", "REJECT": "Rejected"}
TAIL_LINES = 20
# Moving files at the end of a run gets at least this long
LEAST_SECONDS = 60.0


@dataclass(frozen=True)
class Retraining:
    """Where one retraining works.

    Attributes:
        root: the project's folder.
        tree: the worktree.
        branch: of the worktree.
        reports: folder for the verdict.
        limit: how long everything may take.
    """

    root: Path
    tree: Path
    branch: str
    reports: Path
    limit: TimeLimit

    @property
    def date(self) -> str:
        """Names the run."""
        return self.branch.partition("/")[2]


@flow(name="retrain", persist_result=False)
def retrain(root: str = ".", profile: str | None = None, limit_hours: float = LIMIT_HOURS) -> State[Any]:
    """Train a detector from the last commit and the data at hand; let it serve if it is proven better.

    Args:
        root: the project's folder, a git and DVC repository.
        profile: name in `conf/profile`; None: `params.yaml` as it is committed.
        limit_hours: how long it may take.

    Returns:
        A completed state named Promoted, Held, Rejected or Unchanged, with the reason.

    Raises:
        UserError: another retraining runs, or the project cannot be retrained.
        StageFailedError: a stage failed; nothing that serves has changed.
        TimeLimitError: it took too long; nothing that serves has changed.
    """
    limit = TimeLimit.start("retrain", limit_hours)
    folder = Path(root).resolve()
    if not (folder / "dvc.yaml").is_file():
        raise UserError(f"{folder / 'dvc.yaml'} does not exist: `root` must be the project's folder")
    flow_run_id = str(runtime.flow_run.id)
    with lease(folder) as held:
        for line in clean_up(folder, held.left_over):
            get_run_logger().warning("left by a killed run: %s", line)
        if held.left_over is not None:  # this run may find nothing to do and open no run of its own
            warn_of_failure("MLflow still says Running of a killed run", lambda: end_dead_runs(folder))
        tell_untold(folder)
        branch = f"retrain/{datetime.now(UTC):%Y-%m-%d-%H%M%S}"
        held.note(pid=str(os.getpid()), flow_run_id=flow_run_id, branch=branch)
        try:
            take_changed_data(folder)
            tree = add_worktree(folder, branch)
            if changed := uncommitted(folder):
                get_run_logger().warning("not committed, so not trained with: %s", ", ".join(changed))
            run = Retraining(folder, tree, branch, folder / REPORTS / branch.partition("/")[2], limit)
            return train_and_decide(run, profile, flow_run_id)
        finally:
            remove_worktree(folder, worktree_path(folder, branch), branch)


def take_changed_data(folder: Path) -> None:
    """Let DVC know of files that somebody has put beside its data; while it is busy, they wait.

    A run in the project's folder may hold DVC for hours, and a retraining works beside it.
    """
    try:
        for name in add_changed_data(folder):
            get_run_logger().info("%s holds other files than DVC knew: added", name)
    except (LockError, TemporaryFailureError) as error:
        get_run_logger().warning("files put into the data by hand wait for the next retraining: %s", error)


def train_and_decide(run: Retraining, profile: str | None, flow_run_id: str) -> State[Any]:
    """Everything between making the worktree and removing it."""
    if profile is not None:
        from pipeline.profiles import write_params

        write_params(run.tree, profile)
    restore(run)
    inputs = inputs_md5(run.tree)
    if said := why_not_again(run.root, inputs):
        return Completed(name="Unchanged", message=said)
    with chdir(run.root), parent_run("retrain", flow_run_id, run.tree) as parent:
        train(run, parent)
        version = bundle_version(run.tree / BUNDLE)
        champion = current(run.root)
        if champion is not None and champion.name == version:
            follow(run.root)  # a run that was killed just after its promotion did not come to that
            return Completed(name="Unchanged", message=f"nothing changed: champion {version} is up to date")
        parent.used = True
        verdict = compare(run, parent)
        # Whatever serves is in the registry and on a branch, also if this is killed at any line
        record(run, verdict, parent)
        commit_branch(run, verdict)
        judged = judge(run.date, inputs, verdict)
        note_pending(run.root, judged)
        act(run, verdict)
        # From here on the verdict is carried out: the next run remembers and tells it if this one is killed
        remember_and_tell(run.root, judged)
        push(run)
    wait_for_server(run.limit)
    message = f"{verdict['verdict']}: {verdict['reason']}"
    return Completed(name=STATES[verdict["verdict"]], message=message)


@task(cache_policy=NO_CACHE, persist_result=False)
def restore(run: Retraining) -> None:
    """Fill the worktree with the outs that the DVC cache holds; a stage whose outs it lacks will run."""
    _, failure = call_dvc(run, "checkout", "--quiet", "--allow-missing")
    if failure is not None:
        get_run_logger().warning("dvc checkout %s: stages whose outs are missing run again", failure)
    # By name too: DVC looks for none in a folder that git ignores
    records = [f"{name}.dvc" for name in raw_dependencies(run.tree) if (run.tree / f"{name}.dvc").is_file()]
    if records:
        _, failure = call_dvc(run, "checkout", "--quiet", *records)
        if failure is not None:
            raise UserError(f"the data of {', '.join(records)} cannot be restored: dvc checkout {failure}")


def call_dvc(run: Retraining, *arguments: str) -> tuple[list[str], str | None]:
    """Run a command of DVC in the worktree, for as long as the run may take.

    A remote that never answers would otherwise keep the lease, and with it every later retraining.

    Args:
        run: the retraining; near its limit, the command gets `LEAST_SECONDS`.
        arguments: of `dvc`.

    Returns:
        (lines that it printed, why it failed in a few words or None).
    """
    children = ChildProcesses()
    said: list[str] = []
    seconds = max(run.limit.left, LEAST_SECONDS)
    timer = Timer(seconds, children.stop)
    timer.start()
    try:
        command = [sys.executable, "-m", "dvc", *arguments]
        code = children.run(command, run.tree, child_environment(None), said.append)
        is_late = children.stopped
    finally:
        timer.cancel()
        children.stop()
    if is_late:
        return said, f"did not end within {seconds:.0f} s"
    return said, None if code == 0 else f"failed: {said[-1] if said else f'exit code {code}'}"


def train(run: Retraining, parent: ParentRun) -> None:
    """Bring every stage of the worktree up to date within the time that is left.

    Raises:
        StageFailedError: a stage failed.
        TimeLimitError: the time is over.
    """
    wait_for_server(run.limit)
    hours = run.limit.left / 3600
    try:
        pipeline(root=str(run.tree), parent_run_id=parent.run_id, limit_hours=hours)
    except TimeLimitError as error:
        raise run.limit.error("the training") from error


@task(cache_policy=NO_CACHE, persist_result=False)
def compare(run: Retraining, parent: ParentRun) -> dict[str, Any]:
    """Run the gate in a process of its own, and show the verdict in Prefect and MLflow.

    Raises:
        UserError: there is no verdict; the message says why.
        TimeLimitError: the time is over.
    """
    command = [sys.executable, "-m", "pipeline.cli", "gate", "--root", str(run.root)]
    command += ["--challenger", str(run.tree / BUNDLE), "--training", str(run.tree / INSPECTION)]
    command += ["--params", str(run.tree / "params.yaml"), "--output", str(run.reports)]
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def on_line(line: str) -> None:
        get_run_logger().info("%s", line)
        tail.append(line)

    children = ChildProcesses()

    def attempt() -> tuple[int, str]:
        tail.clear()
        code = children.run(command, run.tree, child_environment(parent), on_line)
        return code, "\n".join(tail)

    timer = Timer(max(run.limit.left, 0), children.stop)
    timer.start()
    try:
        code = patiently(attempt, lambda: children.stopped, get_run_logger().warning)
    except StoppedError as error:
        raise run.limit.error("the comparison") from error
    finally:
        timer.cancel()
        children.stop()
    if run.limit.left < 0:
        raise run.limit.error("the comparison")
    if code != 0:
        raise UserError(f"no verdict: {cause('metaldefect', list(tail))}")
    verdict: dict[str, Any] = read_json(run.reports / "verdict.json")
    show(run)
    return verdict


def show(run: Retraining) -> None:
    """Publish the verdict as Prefect artifacts: the table, and the picture."""
    wait_for_server(run.limit)
    create_markdown_artifact(
        key="verdict",
        markdown=(run.reports / "verdict.md").read_text(encoding="utf-8"),
        description="Challenger against champion, on the holdout",
    )
    picture = base64.b64encode((run.reports / "verdict.png").read_bytes()).decode("ascii")
    create_image_artifact(
        key="verdict-picture",
        image_url=f"data:image/png;base64,{picture}",
        description="What differs, every score, and the images that the two decide otherwise",
    )


@task(cache_policy=NO_CACHE, persist_result=False)
def act(run: Retraining, verdict: dict[str, Any]) -> None:
    """Promote, hold, or leave everything as it is; then let the registry's aliases follow.

    Raises:
        UserError: the challenger would replace a detector that it was not compared with; it is on hold.
    """
    bundle = run.tree / BUNDLE
    if verdict["verdict"] == "PROMOTE" and (change := change_since(run.root, verdict)) is not None:
        hold(run.root, bundle)
        follow(run.root)
        raise UserError(
            f"another detector serves since the comparison ({change}): run retrain again. Until then the"
            " challenger is on hold in models/challenger"
        )
    if verdict["verdict"] == "PROMOTE":
        promote(run.root, bundle, {"verdict": "PROMOTE", "reason": verdict["reason"], "branch": run.branch})
    elif verdict["verdict"] == "HOLD":
        hold(run.root, bundle)
    follow(run.root)


def change_since(root: Path, verdict: dict[str, Any]) -> str | None:
    """What served and what serves, if that is neither the compared champion nor the challenger; else None.

    Somebody may roll back or promote by hand while the gate measures.
    """
    champion = current(root)
    serves = champion.name if champion is not None else None
    compared, challenger = (verdict[name] and verdict[name]["version"] for name in ("champion", "challenger"))
    if serves in (compared, challenger):
        return None
    return f"{compared or 'none'} then, {serves or 'none'} now"


def follow(root: Path) -> None:
    """Let the registry's aliases say what serves and what waits; the links are the truth, so it may fail."""
    from pipeline.registry import follow_links

    try:
        follow_links(root)
    except Exception as error:
        said = "MLflow's aliases are not updated, the next retraining updates them: %s"
        get_run_logger().error(said, error)


@task(cache_policy=NO_CACHE, persist_result=False)
def record(run: Retraining, verdict: dict[str, Any], parent: ParentRun) -> None:
    """Register the challenger with its verdict and lineage."""
    import mlflow

    from pipeline.registry import register

    mlflow.MlflowClient().log_artifacts(parent.run_id, str(run.reports), "verdict")
    if verdict["challenger"] is None:  # refused: it is no model
        return
    number = register(run.root, run.tree, run.tree / BUNDLE, parent.run_id, verdict)
    get_run_logger().info("registered as version %s of the detector", number)


@task(cache_policy=NO_CACHE, persist_result=False)
def commit_branch(run: Retraining, verdict: dict[str, Any]) -> str | None:
    """Commit `dvc.lock`, metrics and new `.dvc` files on the run's branch; returns the commit."""
    if (run.root / HOLDOUT_CARD).is_file():
        shutil.copy2(run.root / HOLDOUT_CARD, run.tree / HOLDOUT_CARD)
    message = f"Retrain {run.date}: {verdict['verdict']}\n\n{verdict['reason']}\n"
    made = commit(run.tree, message, [HOLDOUT_CARD])
    get_run_logger().info("committed %s on %s", made or "nothing", run.branch)
    return made


@task(cache_policy=NO_CACHE, persist_result=False)
def push(run: Retraining) -> None:
    """Push outs and run cache, if a DVC remote is set; a remote that does not answer is no failure."""
    settings, failure = call_dvc(run, "config", "--list")
    if failure is None and not any(line.startswith("remote.") for line in settings):
        return
    if failure is None:
        _, failure = call_dvc(run, "push", "--run-cache")
    if failure is not None:
        later = "dvc push --run-cache --all-branches"  # the outs are those of the run's branch
        get_run_logger().error("dvc push %s; type it again later: `%s`", failure, later)


def tell_untold(root: Path) -> None:
    """Remember and tell the verdict of a run that was killed just after it was carried out."""
    if (judged := carried_out_untold(root)) is not None:
        get_run_logger().warning("told now, its run was killed: %s of %s", judged.verdict, judged.date)
        remember_and_tell(root, judged)
    forget_pending(root)


def remember_and_tell(root: Path, judged: Judged) -> None:
    """Remember a verdict that is carried out, and tell it; one that fails is told by the next run."""
    remember_verdict(root, judged)
    announce(root, judged)
    forget_pending(root)


def announce(root: Path, judged: Judged) -> None:
    """Report a verdict to people, and emit it as an event for automations."""
    level: Level = "info" if judged.verdict != "REJECT" else "warning"
    reports = root / REPORTS / judged.date
    notify(f"retraining: {judged.verdict}", f"{judged.reason}\n{reports}", level, root)
    emit_event(
        event=EVENT,
        resource={"prefect.resource.id": "metaldefect.detector", "prefect.resource.name": root.name},
        payload={
            "verdict": judged.verdict,
            "reason": judged.reason,
            "branch": judged.branch,
            "report": str(reports),
        },
    )
