"""DVC's graph as the flow sees it: names, who waits for whom, what is out of date.

`dvc.yaml` stays the only description of the pipeline; everything here is asked of DVC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.utils.serialize import load_yaml, modify_yaml

from metaldefect.errors import UserError

if TYPE_CHECKING:
    from dvc.stage import Stage

LOCK_FILE = "dvc.lock"


@dataclass(frozen=True)
class Node:
    """A stage of `dvc.yaml`, or a `.dvc` file that one depends on.

    Attributes:
        name: what `dvc repro` calls it: `merge`, `data/raw.dvc`.
        upstream: names of the nodes whose outs it reads.
        changed: whether `dvc status` has something to say about it.
    """

    name: str
    upstream: tuple[str, ...]
    changed: bool


def read_graph(root: Path) -> list[Node]:
    """The nodes that `dvc repro` would visit, in its own order (upstream first).

    Takes the status of the whole pipeline once, which needs DVC's lock: call it before any stage runs.

    Raises:
        UserError: `root` is no DVC repository, its `dvc.yaml` is broken, or another DVC holds its lock.
    """
    try:
        # DVC looks for dvc.yaml in the current folder, and names stages as seen from there.
        with chdir(root), Repo(str(root)) as repo:
            graph = repo.index.graph
            plan = plan_repro(get_active_graph(graph), collect_stages(repo, ["dvc.yaml"]))
            changed = set(repo.status())
            return [node(stage, graph, set(plan), changed) for stage in plan]
    except NotDvcRepoError as error:
        raise UserError(f"{root} is not a DVC repository: type `dvc init` there") from error
    except DvcException as error:
        raise UserError(f"DVC cannot read the pipeline in {root}: {error}") from error


def node(stage: Stage, graph: Any, planned: set[Stage], changed: set[str]) -> Node:
    """A stage of DVC's graph as a node.

    A frozen stage keeps its edges although DVC does not follow them: it then waits for stages that it
    does not need, and both graphs look the same.
    """
    upstream = sorted(other.addressing for other in graph.successors(stage) if other in planned)
    return Node(stage.addressing, tuple(upstream), stage.addressing in changed)


def locked_stages(root: Path) -> list[str]:
    """The stages in `dvc.lock`, in the order of the file."""
    path = root / LOCK_FILE
    return list(load_yaml(str(path)).get("stages", {})) if path.is_file() else []


@contextmanager
def stable_lock_order(root: Path, nodes: Iterable[Node]) -> Iterator[None]:
    """Keep `dvc.lock` in the order that `dvc repro` would have written.

    DVC appends a stage that is new to the file when it ends, so stages that ran side by side would
    make the order, and with it the file's bytes, a matter of chance.
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
            with (
                chdir(root),
                Repo(str(root)) as repo,
                repo.lock,
                modify_yaml(str(root / LOCK_FILE)) as content,
            ):
                content["stages"] = {name: content["stages"][name] for name in order}
