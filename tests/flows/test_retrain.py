"""The flow `retrain` on a toy project whose pipeline takes planted detectors: one process, one server."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dvc.lock import LockError
from dvc.repo import Repo

from benchmarks.toy_project import write_project
from flows import retrain as flow
from flows import retries
from flows.judged import LAST, inputs_md5, judge, note_pending
from flows.lease import LEASE, lease
from flows.leftovers import clean_up
from flows.limits import TimeLimit
from flows.processes import ChildProcesses
from flows.retrain import (
    Retraining,
    act,
    compare,
    push,
    restore,
    take_changed_data,
    tell_untold,
    train_and_decide,
)
from flows.tracking import ParentRun
from flows.worktree import (
    FOLDER,
    IDENTITY,
    add_changed_data,
    add_worktree,
    commit,
    git,
    link_data,
    raw_dependencies,
    remove_worktree,
    take_changed_data_files,
    uncommitted,
)
from metaldefect.artifacts import read_json
from metaldefect.deploy.bundle import bundle_version
from metaldefect.errors import UserError
from pipeline.champion import BUNDLES, CHALLENGER, CHAMPION, current, promote, rollback
from pipeline.temporary import TemporaryFailureError

STEPS = """\
import json, os, socket, sys
from contextlib import chdir
from pathlib import Path
import mlflow
from flows.worktree import git
from pipeline.prefect_settings import migrate_database, prepare_environment
root = Path(sys.argv[1])
prepare_environment(root)
migrate_database()
from prefect.client.orchestration import get_client
from prefect.states import Running
from flows.lease import LEASE
from flows.retrain import retrain
import flows.tracking
from pipeline.dead_runs import TAG
from pipeline.run import connect_tracking

described = flows.tracking.describe_parent

def unreachable(run_id):
    raise ConnectionError("MLflow is away")


with get_client(sync_client=True) as client:
    dead = client.create_flow_run(retrain, state=Running())
    (root / LEASE).parent.mkdir(parents=True, exist_ok=True)
    (root / LEASE).write_text(json.dumps({"pid": "1", "flow_run_id": str(dead.id)}))
for which in sys.argv[2:]:
    options = {}
    if which == "too slow":
        options = {"limit_hours": 4 / 3600}
        (root / "seconds.txt").write_text("60")
        (root / "round.txt").write_text("1")
        git(root, "commit", "--quiet", "--all", "--message", which)
    elif which == "again":
        with chdir(root):
            connect_tracking()
            store = mlflow.MlflowClient()
            metaldefect = store.get_experiment_by_name("metaldefect").experiment_id
            killed = store.create_run(metaldefect, tags={TAG: f"{socket.gethostname()} 4194304 0.00"})
        (root / LEASE).write_text(json.dumps({"pid": "4194304"}))
    else:
        (root / "which.txt").write_text(which)
        git(root, "commit", "--quiet", "--all", "--message", which)
    flows.tracking.describe_parent = unreachable if which == "half_blind" else described
    state = retrain(root=str(root), return_state=True, **options)
    link = root / "models/champion"
    serves = link.resolve().name if link.exists() else None
    if which == "again":
        with chdir(root):
            assert store.get_run(killed.info.run_id).info.status == "KILLED"
    print("STEP", json.dumps([which, state.name, state.message, serves]))
with get_client(sync_client=True) as client:
    print("DEAD", client.read_flow_run(dead.id).state.name)
    print("ARTIFACTS", json.dumps(sorted({a.key for a in client.read_artifacts() if a.key})))
print("TORCH", "torch" in sys.modules)
"""


@pytest.fixture
def project(tmp_path: Path, environment: dict[str, str]) -> Path:
    """A committed project with data that git does not hold."""
    return write_project(tmp_path / "project", tmp_path / "no detectors", environment, seconds=0)


def test_a_retraining_promotes_rejects_and_leaves_what_serves_alone(
    tmp_path: Path, with_database: dict[str, str], planted: dict[str, Path]
) -> None:
    project = write_project(tmp_path / "project", planted["good"].parent, with_database, seconds=0)
    untold = {"verdict": "REJECT", "reason": "of a run that was killed", "challenger": None, "champion": None}
    note_pending(project, judge("2026-01-01-030000", "other inputs", {**untold, "holdout": {"sha256": "a"}}))
    dvc(project, with_database, "remote", "add", "--quiet", "--default", "store", str(tmp_path / "store"))
    git(project, "commit", "--quiet", "--all", "--message", "a remote")
    steps = ["half_blind", "again", "no_detector", "worse", "again", "too slow"]
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(project), *steps],
        env=with_database,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("STEP ")]
    first, again, failed, rejected, nothing_new, late = (json.loads(line[5:]) for line in lines)

    assert first[1:3] == ["Promoted", "PROMOTE: the first detector: it reaches every floor"]
    # MLflow fails once the champion has changed: the run is no failure, and people are told
    assert "the run's description in MLflow is incomplete: MLflow is away" in done.stdout
    notices = (project / "logs/notices.log").read_text()
    assert "info    retraining: PROMOTE | the first detector: it reaches every floor | " in notices
    assert notices.count("warning retraining: REJECT | ") == 2
    assert notices.count("warning retraining: REJECT | of a run that was killed | ") == 1
    assert again[1] == "Unchanged"
    assert again[2].endswith(f": champion {first[3]} is up to date")
    assert again[3] == first[3]
    # The state says why, not DVC's last line (exited with 1), and what serves is as before
    assert failed[1] == "Failed"
    assert "export_openvino failed: export_openvino: no_detector is no detector:\nname another" in failed[2]
    assert failed[3] == first[3]
    assert rejected[1] == "Rejected"
    assert "floor of image AUROC" in rejected[2]
    assert rejected[3] == first[3]
    # With the same data, settings and code nothing is trained and compared again
    assert nothing_new[1] == "Unchanged"
    assert nothing_new[2].startswith("no new data, settings or code since ")
    assert f", whose challenger was rejected: {rejected[2].removeprefix('REJECT: ')}" in nothing_new[2]
    assert late[1] == "Failed"
    assert "retrain did not end within 0.00111111 h: the training was ended." in late[2]
    assert "`limit_hours` in prefect.yaml gives more time" in late[2]
    assert late[3] == first[3]

    check_traces(project, done.stdout)
    check_second_clone(project, tmp_path / "clone", with_database)


def test_a_gate_that_was_killed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stage is: the usual killer is the kernel that is short of memory."""
    reports, codes = tmp_path / "reports", iter([-9, 0])

    class Children(ChildProcesses):
        def run(self, *_arguments: object) -> int:
            code = next(codes)
            if code == 0:
                reports.mkdir()
                (reports / "verdict.json").write_text('{"verdict": "HOLD"}')
            return code

    monkeypatch.setattr(flow, "ChildProcesses", Children)
    monkeypatch.setattr(flow, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(flow, "show", lambda _run: None)
    monkeypatch.setattr(retries, "DELAYS", [0])
    run = Retraining(tmp_path, tmp_path, "retrain/now", reports, TimeLimit.start("retrain", 1))
    assert compare.fn(run, ParentRun({})) == {"verdict": "HOLD"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retraining:
    """A retraining whose time is over, outside a flow; MLflow is not asked."""
    monkeypatch.setattr(flow, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(flow, "follow", lambda _root: None)
    limit = TimeLimit.start("retrain", 0)
    return Retraining(tmp_path, tmp_path / "tree", "retrain/now", tmp_path / "reports", limit)


def write_bundle(folder: Path, content: str) -> str:
    """The version of a made-up bundle."""
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps({"content": content}))
    return bundle_version(folder)


@pytest.mark.parametrize("change", ["rolled back", "nothing serves any more"])
def test_a_champion_that_was_not_compared_is_not_replaced(run: Retraining, change: str) -> None:
    older, compared = (write_bundle(run.root / name, name) for name in ("older", "compared"))
    challenger = write_bundle(run.tree / "models/openvino", "challenger")
    for name in ("older", "compared"):
        promote(run.root, run.root / name, {})
    verdict = {
        "verdict": "PROMOTE",
        "reason": "made up",
        "champion": {"version": compared},
        "challenger": {"version": challenger},
    }
    if change == "rolled back":
        rollback(run.root)
    else:
        (run.root / CHAMPION).unlink()
    before = current(run.root)
    with pytest.raises(
        UserError,
        match=f"another detector serves since the comparison .{compared} then, .*: run retrain again",
    ):
        act.fn(run, verdict)
    assert current(run.root) == before
    assert current(run.root, CHALLENGER) == run.root / BUNDLES / challenger

    verdict["champion"] = {"version": older} if change == "rolled back" else None
    act.fn(run, verdict)
    assert current(run.root) == run.root / BUNDLES / challenger
    act.fn(run, verdict)  # it serves already: somebody promoted it by hand


def test_a_verdict_whose_run_died_before_it_was_told_is_told_by_the_next(
    run: Retraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = {
        "verdict": "REJECT",
        "reason": "made up",
        "champion": None,
        "challenger": None,
        "holdout": {"sha256": "images"},
    }
    events: list[str] = []

    def dies(**_event: object) -> None:
        raise KeyboardInterrupt

    @contextmanager
    def no_parent(*_arguments: object) -> Iterator[ParentRun]:
        yield ParentRun({})

    for name in ("restore", "train", "record", "commit_branch", "wait_for_server"):
        monkeypatch.setattr(flow, name, lambda *_arguments: None)
    monkeypatch.setattr(flow, "parent_run", no_parent)
    monkeypatch.setattr(flow, "inputs_md5", lambda _tree: "inputs")
    monkeypatch.setattr(flow, "compare", lambda *_arguments: verdict)
    monkeypatch.setattr(flow, "act", act.fn)
    monkeypatch.setattr(flow, "emit_event", dies)
    write_bundle(run.tree / "models/openvino", "challenger")
    with pytest.raises(KeyboardInterrupt):
        train_and_decide(run, None, "flow run")

    monkeypatch.setattr(flow, "emit_event", lambda **event: events.append(event["payload"]["branch"]))
    for _ in range(2):
        tell_untold(run.root)
    assert events == ["retrain/now"]
    assert read_json(run.root / LAST)["reason"] == "made up"


FAKE_DVC = """\
import sys, time
if sys.argv[1] == "config":
    print("core.remote=store\\nremote.store.url=s3://nowhere")
elif {hangs}:
    time.sleep(300)
else:
    sys.exit("ERROR: no route to host")
"""


@pytest.mark.parametrize(
    ("hangs", "said"),
    [(True, "did not end within 2 s"), (False, "failed: ERROR: no route to host")],
)
def test_a_remote_that_hangs_or_fails_ends_within_the_limit_and_says_what_to_type(
    run: Retraining,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hangs: bool,
    said: str,
) -> None:
    (run.tree / "dvc").mkdir(parents=True)
    (run.tree / "dvc/__init__.py").touch()
    (run.tree / "dvc/__main__.py").write_text(FAKE_DVC.format(hangs=hangs))
    (run.tree / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setattr(flow, "child_environment", lambda _parent: {"PYTHONPATH": str(run.tree)})
    monkeypatch.setattr(flow, "LEAST_SECONDS", 2.0)
    start = time.monotonic()
    restore.fn(run)
    push.fn(run)
    assert time.monotonic() - start < 60
    assert [record.getMessage() for record in caplog.records] == [
        f"dvc checkout {said}: stages whose outs are missing run again",
        f"dvc push {said}; type it again later: `dvc push --run-cache --all-branches`",
    ]


def dvc(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_second_clone(project: Path, clone: Path, environment: dict[str, str]) -> None:
    """The branch and the remote, to which the retraining has pushed, are all that another machine needs."""
    branch = git(project, "branch", "--list", "retrain/*", "--format=%(refname:short)").splitlines()[-1]
    git(project, "clone", "--quiet", "--branch", branch, str(project), str(clone))
    shutil.copytree(project / "data/raw", clone / "data/raw")
    dvc(clone, environment, "pull", "--quiet")
    assert "up to date" in dvc(clone, environment, "status")
    assert (clone / "models/openvino/metadata.json").is_file()


def check_traces(project: Path, output: str) -> None:
    """Branches with their commits, verdicts, artifacts, MLflow runs, and no worktree left."""
    branches = git(project, "branch", "--list", "retrain/*", "--format=%(refname:short)").splitlines()
    assert len(branches) == 2  # one per verdict
    subjects = [git(project, "log", "-1", "--format=%s%n%b", branch) for branch in branches]
    assert [text.splitlines()[0].split()[-1] for text in subjects] == ["PROMOTE", "REJECT"]
    assert "floor of image AUROC" in subjects[1]
    changed = git(project, "show", "--name-only", "--format=", branches[-1]).splitlines()
    # DVC lists its out in the .gitignore beside it
    assert set(changed) == {"data/holdout.json", "dvc.lock", "data/merged/.gitignore"}
    assert not (project / "dvc.lock").exists()  # the working folder is as it was
    assert not (project / "models/openvino").exists()
    assert list((project / FOLDER).iterdir()) == []
    assert git(project, "status", "--porcelain") == "?? data/"  # holdout.json

    verdicts = [read_json(path)["verdict"] for path in sorted(project.glob("reports/retrain/*/verdict.json"))]
    assert verdicts == ["PROMOTE", "REJECT"]
    assert json.loads(output.split("ARTIFACTS ")[1].splitlines()[0]) == [
        "pipeline",
        "verdict",
        "verdict-picture",
    ]
    # a run that was killed before no longer says that it runs
    assert output.split("DEAD ")[1].splitlines()[0] == "Crashed"
    assert "TORCH False" in output.splitlines()
    with sqlite3.connect(project / "mlruns/mlflow.db") as store:
        runs = store.execute("select status, lifecycle_stage from runs order by start_time").fetchall()
    # among them two of killed processes, which ended although there was nothing to train
    states = ["FINISHED", "KILLED", "FAILED", "FINISHED", "KILLED", "FAILED"]
    assert runs == [(state, "active") for state in states]


def test_one_retraining_at_a_time(tmp_path: Path) -> None:
    with lease(tmp_path) as held:
        assert held.left_over is None
        held.note(pid="42", flow_run_id="abc")
        said = r"another retraining .* runs \(process 42, flow run abc\)"
        with pytest.raises(UserError, match=said), lease(tmp_path):
            pass
    with pytest.raises(ZeroDivisionError), lease(tmp_path) as held:
        assert held.left_over is None  # the last one ended by itself
        held.note(flow_run_id="failed")
        raise ZeroDivisionError
    with lease(tmp_path) as held:
        assert held.left_over is None  # so did this one


def test_a_killed_holder_leaves_its_note_and_no_lock(tmp_path: Path, environment: dict[str, str]) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from flows.lease import lease\n"
        "with lease(Path(sys.argv[1])) as held:\n"
        "    held.note(flow_run_id='abc'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment)
    with lease(tmp_path) as held:
        assert held.left_over == {"flow_run_id": "abc"}
    (tmp_path / LEASE).write_text('{"flow_run')  # killed while writing
    with lease(tmp_path) as held:
        assert held.left_over == {}


def test_what_a_killed_run_left_is_removed(project: Path, alive: Callable[[int], bool]) -> None:
    empty, kept = "retrain/2026-01-01-000000", "retrain/2026-01-02-000000"
    trees = [add_worktree(project, branch) for branch in (empty, kept)]
    (trees[1] / "which.txt").write_text("other")
    assert commit(trees[1], "a finished commit") is not None
    (project / "mlruns/kept.txt").write_text("kept")
    orphan = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 300 & wait"], cwd=trees[0])
    time.sleep(0.3)
    lock = project / ".git/index.lock"
    lock.touch()
    os.utime(lock, (time.time() - 700,) * 2)
    clean_up_quickly(project)
    orphan.wait(timeout=10)
    assert not alive(orphan.pid)
    assert not any(tree.exists() for tree in trees)
    assert not lock.exists()
    assert git(project, "branch", "--list", "retrain/*", "--format=%(refname:short)") == kept
    assert (project / "mlruns/kept.txt").is_file()  # the worktree only linked to it
    assert git(project, "worktree", "list").count("\n") == 0


def clean_up_quickly(project: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.orphans.GRACE_SECONDS", 0.2)
        said = clean_up(project, None)
    assert any("ended 2 processes of a killed run" in line for line in said), said


def test_the_worktree_has_the_data_at_hand_and_shares_the_cache(
    project: Path, environment: dict[str, str]
) -> None:
    (project / "new").mkdir()
    (project / "new/image.txt").write_text("new data")
    subprocess.run(
        [sys.executable, "-m", "dvc", "add", "-q", "new"], cwd=project, env=environment, check=True
    )
    tree = add_worktree(project, "retrain/2026-01-03-000000")

    assert (tree / "data/raw/one.txt").stat().st_ino == (project / "data/raw/one.txt").stat().st_ino
    (project / "data/raw/two.txt").write_text("2")  # arrives during the run
    assert not (tree / "data/raw/two.txt").exists()
    link_data(project, tree)
    assert (tree / "data/raw/two.txt").is_file()
    assert (tree / "new.dvc").read_bytes() == (project / "new.dvc").read_bytes()
    command = [sys.executable, "-m", "dvc", "checkout", "-q", "new.dvc"]
    subprocess.run(command, cwd=tree, env=environment, check=True)
    assert (tree / "new/image.txt").read_text() == "new data"

    (project / "new/image.txt").write_text("newer data")  # `dvc add` again: a file of git changes
    git(project, "add", "new.dvc")
    git(project, *IDENTITY, "commit", "--quiet", "--message", "data", "--", "new.dvc")
    subprocess.run(
        [sys.executable, "-m", "dvc", "add", "-q", "new"], cwd=project, env=environment, check=True
    )
    (tree / "new.dvc").unlink()
    take_changed_data_files(project, tree)
    assert (tree / "new.dvc").read_bytes() == (project / "new.dvc").read_bytes()

    assert uncommitted(project) == []
    (project / "params.yaml").write_text("seed: 1\n")
    assert uncommitted(project) == ["params.yaml"]  # the flow says that this is not trained with

    (tree / "prüfung.dvc").write_text("outs: []\n")
    made = commit(tree, "data", [Path("data/holdout.json")])
    assert made is not None
    shown = git(project, "-c", "core.quotePath=false", "show", "--name-only", "--format=", made)
    assert shown.split() == ["new.dvc", "prüfung.dvc"]
    remove_worktree(project, tree, "retrain/2026-01-03-000000")
    assert (project / "data/raw/one.txt").read_text() == "1"


def test_a_folder_inside_a_repository_is_refused(project: Path, environment: dict[str, str]) -> None:
    inner = project / "inner"
    shutil.copytree(project / ".dvc", inner / ".dvc")
    with pytest.raises(UserError, match="is not the top folder of its git repository"):
        add_worktree(inner, "retrain/2026-01-04-000000")
    assert git(project, "branch", "--list", "retrain/*") == ""


def test_a_remote_with_a_relative_path_is_the_same_from_the_worktree(
    project: Path, environment: dict[str, str]
) -> None:
    dvc(project, environment, "remote", "add", "--quiet", "--default", "store", "../store")
    dvc(project, environment, "remote", "add", "--quiet", "bucket", "s3://bucket/path")
    git(project, "commit", "--quiet", "--all", "--message", "remotes")
    tree = add_worktree(project, "retrain/2026-01-05-000000")
    with Repo(str(tree)) as repo:
        urls = {name: remote["url"] for name, remote in repo.config["remote"].items()}
    assert urls == {"store": str(project.parent / "store"), "bucket": "s3://bucket/path"}
    kept = project / FOLDER / "somebody's"
    kept.mkdir()
    clean_up(project, None)
    assert kept.is_dir()
    assert not tree.exists()


def test_files_put_beside_those_that_dvc_knows_are_trained_with(
    project: Path, environment: dict[str, str]
) -> None:
    assert add_changed_data(project) == []
    dvc(project, environment, "add", "--quiet", "data/raw")
    assert add_changed_data(project) == []
    (project / "data/raw/by_hand.txt").write_text("new")
    assert add_changed_data(project) == ["data/raw"]
    tree = add_worktree(project, "retrain/2026-01-06-000000")
    run = Retraining(project, tree, "retrain/2026-01-06-000000", project / "reports", TimeLimit.start("x", 1))
    restore.fn(run)
    assert (tree / "data/raw/by_hand.txt").read_text() == "new"
    shutil.rmtree(project / "data/raw")  # as in a fresh clone: what is recorded stays
    assert add_changed_data(project) == []


@pytest.mark.parametrize("busy", [LockError("Unable to acquire lock"), TemporaryFailureError("is busy")])
def test_a_run_that_holds_dvc_keeps_no_retraining_from_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, busy: Exception
) -> None:
    def hold(_folder: Path) -> list[str]:
        raise busy

    monkeypatch.setattr(flow, "add_changed_data", hold)
    monkeypatch.setattr(flow, "get_run_logger", lambda: logging.getLogger("test"))
    take_changed_data(tmp_path)
    (record,) = caplog.records
    assert record.getMessage() == f"files put into the data by hand wait for the next retraining: {busy}"


def test_data_in_a_folder_that_git_ignores_are_checked_out(
    project: Path, environment: dict[str, str]
) -> None:
    graph = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(graph.replace("data/raw", "data/raw/my-plant"))
    (project / "data/raw/my-plant").mkdir()
    (project / "data/raw/my-plant/a.txt").write_text("a")
    (project / ".gitignore").write_text("/data/raw/*\n!/data/raw/*.dvc\n")
    dvc(project, environment, "add", "--quiet", "data/raw/my-plant")
    git(project, "add", "--all")
    git(project, *IDENTITY, "commit", "--quiet", "--message", "own images")
    tree = add_worktree(project, "retrain/2026-01-07-000000")
    run = Retraining(project, tree, "retrain/2026-01-07-000000", project / "reports", TimeLimit.start("x", 1))
    restore.fn(run)
    assert (tree / "data/raw/my-plant/a.txt").read_text() == "a"


def test_data_on_a_drive_of_the_network_count_among_the_inputs(tmp_path: Path, project: Path) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    graph = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(graph.replace("data/raw", str(drive)))
    assert str(drive) in raw_dependencies(project)
    before = inputs_md5(project)
    (drive / "new.txt").write_text("new")
    assert inputs_md5(project) != before
