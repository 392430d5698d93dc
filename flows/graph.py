"""DVC's graph for the flow: stage names, their upstream stages, and which are out of date.

`dvc.yaml` is the only description of the pipeline; this module asks DVC for everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.utils.serialize import load_yaml, modify_yaml

from flows.retries import LOCK_PAUSE_SECONDS, LONGEST_LOCK_SECONDS
from metaldefect.errors import UserError

if TYPE_CHECKING:
    from dvc.stage import Stage

LOCK_FILE = "dvc.lock"


@dataclass(frozen=True)
class Node:
    """A stage of `dvc.yaml`, or a `.dvc` file that a stage depends on.

    Attributes:
        name: DVC's name for it, such as `merge` or `data/raw.dvc`.
        upstream: names of the nodes whose outs it reads.
        changed: whether `dvc status` reports a change.
    """

    name: str
    upstream: tuple[str, ...]
    changed: bool


def read_graph(root: Path, say: Callable[[str], None] = print) -> list[Node]:
    """The nodes that `dvc repro` would visit, in its order (upstream first).

    Reads the status of the whole pipeline once, which needs DVC's locks: call it before any stage runs. While
    another DVC process works here, this waits for it.

    Args:
        root: the project's folder.
        say: receives one line if this has to wait.

    Raises:
        UserError: `root` is not a DVC repository, its `dvc.yaml` is broken, or another DVC process holds its
            locks for twelve hours.
    """
    give_up = time.monotonic() + LONGEST_LOCK_SECONDS
    waits = False
    while True:
        try:
            return read_graph_once(root)
        except LockError as error:
            if time.monotonic() > give_up:
                raise UserError(f"another DVC process holds {root}: {error}") from error
            if not waits:
                say(f"another DVC process works in {root}: waiting for it")
            waits = True
            time.sleep(LOCK_PAUSE_SECONDS)


def read_graph_once(root: Path) -> list[Node]:
    """The nodes, if no other DVC process is in the way.

    Raises:
        LockError: one is.
        UserError: as for `read_graph`.
    """
    try:
        # DVC looks for dvc.yaml in the current folder, and names stages relative to it.
        with chdir(root), Repo(str(root)) as repo:
            graph = repo.index.graph
            plan = plan_repro(get_active_graph(graph), collect_stages(repo, ["dvc.yaml"]))
            changed = set(repo.status())
            return [node(stage, graph, set(plan), changed) for stage in plan]
    except LockError:
        raise
    except NotDvcRepoError as error:
        raise UserError(f"{root} is not a DVC repository: type `dvc init` there") from error
    except DvcException as error:
        raise UserError(f"DVC cannot read the pipeline in {root}: {error}") from error


def node(stage: Stage, graph: Any, planned: set[Stage], changed: set[str]) -> Node:
    """A stage of DVC's graph as a node.

    A frozen stage keeps its edges although DVC ignores them: it may wait for stages that it does not need,
    but Prefect's graph then looks like DVC's.
    """
    upstream = sorted(other.addressing for other in graph.successors(stage) if other in planned)
    return Node(stage.addressing, tuple(upstream), stage.addressing in changed)


def locked_stages(root: Path) -> list[str]:
    """The stages in `dvc.lock`, in file order."""
    path = root / LOCK_FILE
    return list(load_yaml(str(path)).get("stages", {})) if path.is_file() else []


@contextmanager
def stable_lock_order(root: Path, nodes: Iterable[Node]) -> Iterator[None]:
    """Keep `dvc.lock` in the order that `dvc repro` would have written.

    DVC appends a new stage to the file when the stage ends. Parallel stages end in any order, so without this
    the file's bytes would differ from run to run.
    """
    before = locked_stages(root)
    try:
        yield
    finally:
        after = locked_stages(root)
        planned = [node.name for node in nodes if node.name in after and node.name not in before]
        order = [name for name in before if name in after] + planned
        order += [name for name in after if name not in order]
        if order != after:
            # Where another command of DVC holds the lock, the lines stay in another order: no reason to fail
            with (
                suppress(LockError),
                chdir(root),
                Repo(str(root)) as repo,
                repo.lock,
                modify_yaml(str(root / LOCK_FILE)) as content,
            ):
                content["stages"] = {name: content["stages"][name] for name in order}
