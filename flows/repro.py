"""The flow `pipeline`: one task per DVC stage, upstream first, with independent stages in parallel."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectConcurrentFuture
from prefect.states import Cancelled, Completed, State
from prefect.utilities.annotations import quote

from flows.graph import Node, read_graph, stable_lock_order
from flows.limits import LIMIT_HOURS, TimeLimit
from flows.processes import ChildProcesses, StoppedError
from flows.retries import patiently
from flows.server import is_cancelled, wait_for_server
from flows.summary import StageResult, as_text, cause, table
from flows.tracking import ParentRun, parent_run
from metaldefect.errors import UserError
from pipeline.orphans import FLOW, stop_orphans, works_for_this

POLL_SECONDS = 2.0
TAIL_LINES = 20


class StageFailedError(RuntimeError):
    """A stage ended with an error; the message holds the end of its output."""


@flow(name="pipeline", persist_result=False)
def pipeline(
    root: str = ".",
    force: Sequence[str] = (),
    parent_run_id: str | None = None,
    limit_hours: float = LIMIT_HOURS,
) -> State[Any] | list[StageResult]:
    """Bring every stage of the pipeline up to date.

    Args:
        root: the project's folder.
        force: stages to run even if nothing changed.
        parent_run_id: MLflow run of a larger run that this is a part of; None: the pipeline gets its own.
        limit_hours: how long it may take.

    Raises:
        UserError: `force` names an unknown stage.
        StageFailedError: a stage failed.
        TimeLimitError: it took too long; its stages were ended.
    """
    limit = TimeLimit.start("pipeline", limit_hours)
    folder = Path(root).resolve()
    if ended := stop_orphans(folder, FLOW):
        get_run_logger().warning("ended %d processes of a killed run", ended)
    nodes = read_graph(folder)
    if unknown := sorted(set(force) - {node.name for node in nodes}):
        raise UserError(f"no such stage: {', '.join(unknown)}; known: {', '.join(n.name for n in nodes)}")
    children = ChildProcesses()
    work_to_do = bool(force) or any(node.changed for node in nodes)
    with contextlib.ExitStack() as stack:
        # MLflow's default store and git are looked up in the current folder.
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(stable_lock_order(folder, nodes))
        parent = None
        if work_to_do:
            own = str(runtime.flow_run.id)
            parent = stack.enter_context(parent_run("pipeline", own, folder, parent_run_id))
        results: dict[str, StageResult] = {}
        try:
            futures = submit(nodes, set(force), folder, children, parent, results)
            end = wait(list(futures.values()), limit)
            running = running_stages(nodes, results)
        finally:
            # Prefect raises its termination signal here, as Python does Ctrl-C.
            children.stop()
        wait_for_server(limit)
        rows = report(folder, nodes, results)
        if end == "late":
            raise limit.error(", ".join(running) or "the last stage")
        if end == "cancelled":
            return Cancelled(message="the running stages were ended")
        if any(row["state"] in ("Failed", "Skipped") for row in rows):
            raise StageFailedError(failure_message(nodes, results))
    return list(results.values())


def submit(
    nodes: list[Node],
    force: set[str],
    root: Path,
    children: ChildProcesses,
    parent: ParentRun | None,
    results: dict[str, StageResult],
) -> dict[str, PrefectConcurrentFuture[Any]]:
    """Submit all stages to the task runner, each waiting for its upstream."""
    futures: dict[str, PrefectConcurrentFuture[Any]] = {}
    for node in nodes:
        named = run_node.with_options(name=node.name, task_run_name=node.name)
        future = named.submit(
            node,
            node.name in force,
            root,
            children,
            parent,
            # Prefect walks through a task's arguments in search of futures, and other stages add to these
            # results meanwhile: a dictionary that grows while it is walked through is an error.
            quote(results),
            return_state=False,
            wait_for=[futures[name] for name in node.upstream],
        )
        futures[node.name] = cast("PrefectConcurrentFuture[Any]", future)  # of the thread pool
    return futures


@task(cache_policy=NO_CACHE, persist_result=False)
def run_node(
    node: Node,
    force: bool,
    root: Path,
    children: ChildProcesses,
    parent: ParentRun | None,
    results: dict[str, StageResult],
) -> State[Any]:
    """Bring one stage up to date; the returned state is named after what DVC did.

    Raises:
        StageFailedError: the stage ended with an error.
    """
    logger = get_run_logger()
    if not (force or node.changed or any(results[name].state != "Unchanged" for name in node.upstream)):
        results[node.name] = StageResult(node.name, "Unchanged")
        return Completed(name="Unchanged", message="dvc status is clean and nothing upstream ran")
    started = time.monotonic()
    state = "Completed"
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def on_line(line: str) -> None:
        nonlocal state
        logger.info("%s", line)
        tail.append(line)
        state = state_from_output(node.name, line) or state

    def attempt() -> tuple[int, str]:
        tail.clear()
        code = children.run(dvc_command(node.name, force), root, child_environment(parent), on_line)
        return code, "\n".join(tail)

    try:
        code = patiently(attempt, lambda: children.stopped, logger.warning)
    except StoppedError as error:
        results[node.name] = StageResult(node.name, "Cancelled")
        return Cancelled(message=str(error))
    seconds = time.monotonic() - started
    if children.stopped:
        results[node.name] = StageResult(node.name, "Cancelled", seconds)
        return Cancelled(message=f"ended after {seconds:.0f} s")
    if code != 0:
        results[node.name] = StageResult(node.name, "Failed", seconds, cause(node.name, tail))
        raise StageFailedError(f"{cause(node.name, tail)}\n\nThe end of its output:\n" + "\n".join(tail))
    if parent is not None and state == "Completed":
        parent.used = True
    results[node.name] = StageResult(node.name, state, seconds)
    return Completed(name=state, message=f"in {seconds:.1f} s")


def dvc_command(stage: str, force: bool) -> list[str]:
    """The command that brings this stage up to date and no other.

    Parallel stages wait for DVC's lock, which DVC releases while a stage's own command runs.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item"]
    return [*command, *(["--force"] if force else []), stage]


def child_environment(parent: ParentRun | None) -> dict[str, str]:
    """This process's environment, with this interpreter first in PATH and unbuffered output."""
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["PYTHONUNBUFFERED"] = "1"
    # A progress bar redraws ten times a second, and every redraw would be a line in the log.
    environment.setdefault("TQDM_MININTERVAL", "15")
    return environment | works_for_this(FLOW) | (parent.environment if parent else {})


def state_from_output(stage: str, line: str) -> str | None:
    """`Restored` (from DVC's run cache) or `Unchanged` if DVC's output line says so, else None."""
    if line.startswith(f"Stage '{stage}' is cached - skipping run"):
        return "Restored"
    if line in (f"Stage '{stage}' didn't change, skipping", f"'{stage}' didn't change, skipping"):
        return "Unchanged"
    return None


def wait(
    futures: Sequence[PrefectConcurrentFuture[Any]], limit: TimeLimit
) -> Literal["ended", "cancelled", "late"]:
    """Wait until all tasks have ended, the flow run is cancelled, or its time is over; return which.

    Polls the run's state: cancelling in the UI sends no signal to a flow that was started by hand. Whether a
    task has ended is known here; `future.state` would ask the server, which may be away.
    """
    ids = {runtime.flow_run.id, runtime.flow_run.root_flow_run_id}
    for future in futures:
        while not future.wrapped_future.done():
            future.wait(timeout=POLL_SECONDS)
            if limit.left < 0:
                return "late"
            if is_cancelled(ids):
                return "cancelled"
    return "ended"


def running_stages(nodes: Sequence[Node], results: Mapping[str, StageResult]) -> list[str]:
    """The stages that have started and not ended: all that comes before them is done."""
    done = {name for name, result in results.items() if result.state not in ("Failed", "Cancelled")}
    return [node.name for node in nodes if node.name not in results and done.issuperset(node.upstream)]


def failure_message(nodes: Sequence[Node], results: Mapping[str, StageResult]) -> str:
    """One line per stage that failed, with its error, and per stage that never ran because of it."""
    lines = [f"{r.stage} failed: {r.detail}" for r in results.values() if r.state == "Failed"]
    never_ran = [node.name for node in nodes if node.name not in results]
    return "\n".join(lines + ([f"not run: {', '.join(never_ran)}"] if never_ran else []))


def report(root: Path, nodes: Sequence[Node], results: Mapping[str, StageResult]) -> list[dict[str, str]]:
    """Publish the table of what each stage did, in the UI and in the log; return its rows."""
    rows = table(root, [results.get(node.name, StageResult(node.name, "Skipped")) for node in nodes])
    create_table_artifact(key="pipeline", table=rows, description="What each stage did, and its main metric")
    get_run_logger().info("Pipeline:\n%s", as_text(rows))
    return rows
