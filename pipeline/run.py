"""What all stages share: parameters, seeds, tracking, and error messages that say what to do."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import yaml

from metaldefect.errors import exit_on_user_error
from pipeline.code_files import is_code
from pipeline.dead_runs import TAG, close_dead_runs, process_tag
from pipeline.lineage import LINEAGE, data_hashes, locked_stages, trace
from pipeline.params import Params, load_params
from pipeline.store_paths import make_paths_relative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRACKING_DIRECTORY = Path("mlruns")
ARTIFACTS = f"{TRACKING_DIRECTORY}/artifacts"
CHECKPOINTS = Path(".checkpoints")
PARENT_RUN_VARIABLE = "METALDEFECT_PARENT_RUN_ID"
ARTIFACTS_VARIABLE = "METALDEFECT_ARTIFACTS"
EXPERIMENT = "metaldefect"
METRIC_BATCH = 1000  # what MLflow takes at once


class StageRun:
    """A stage's MLflow run and its folder for resume checkpoints."""

    def __init__(self, stage: str, run_id: str, stage_hash: str, parent_id: str) -> None:
        self.stage = stage
        self.run_id = run_id
        self.stage_hash = stage_hash
        self.parent_id = parent_id

    @property
    def checkpoint_directory(self) -> Path:
        """Folder of the training's last state, outside the outs because DVC deletes those before a run.

        Its name contains the hash of the stage's inputs, so a training never resumes from a state that other
        data or parameters produced.
        """
        return CHECKPOINTS / self.stage / self.stage_hash[:16]

    def log_metrics(self, metrics: Mapping[str, Any], prefix: str = "") -> None:
        """Log the numbers of a nested mapping in one batch, with keys joined by dots."""
        self._log_batch([(key, value, 0) for key, value in flatten_numbers(metrics, prefix)])

    def log_history(self, rows: Sequence[Mapping[str, float]], step_key: str = "step") -> None:
        """Log a table of metrics per step or epoch in batches: one call per value is 40 times slower."""
        self._log_batch(
            [
                (key, float(value), int(row[step_key]))
                for row in rows
                for key, value in row.items()
                if key != step_key and np.isfinite(value)
            ]
        )

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a matplotlib figure under `figures/` and close it."""
        import matplotlib.pyplot as plt
        import mlflow

        mlflow.log_figure(figure, f"figures/{name}")
        plt.close(figure)

    def log_figures(self, figures: Mapping[str, Figure]) -> None:
        """Log each figure as `<name>.png`."""
        for name, figure in figures.items():
            self.log_figure(figure, f"{name}.png")

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log one file."""
        import mlflow

        mlflow.log_artifact(str(path), folder)

    def _log_batch(self, rows: Sequence[tuple[str, float, int]]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        client = MlflowClient()
        for start in range(0, len(rows), METRIC_BATCH):
            batch = rows[start : start + METRIC_BATCH]
            metrics = [Metric(key, value, now, step) for key, value, step in batch]
            client.log_batch(self.run_id, metrics=metrics)


def run_stage(stage: str, body: Callable[[Params, StageRun], None]) -> None:
    """Run `body` in a tracked run: the entry point of `python -m stages.<stage>`.

    A `UserError` ends the process with code 1 and one message; other errors keep their traceback.
    """
    with exit_on_user_error(stage):
        params = load_params()
        seed_everything(params.seed)
        with tracked(stage, params) as run:
            body(params, run)
            shutil.rmtree(run.checkpoint_directory, ignore_errors=True)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and request deterministic kernels from torch."""
    import torch

    from metaldefect.hardware import request_deterministic_kernels, set_threads

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    request_deterministic_kernels()
    set_threads()


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI` if it is set, else the SQLite store under `mlruns/` of the current folder.

    Absolute, because MLflow keeps one store per URI, and a process may change its folder.
    """
    own = f"sqlite:///{Path.cwd() / TRACKING_DIRECTORY}/mlflow.db"
    return os.environ.get("MLFLOW_TRACKING_URI") or own


def connect_tracking() -> None:
    """Point MLflow to the store and create the experiment if it is missing.

    A new experiment keeps its artifacts where `METALDEFECT_ARTIFACTS` says, such as `s3://bucket/metal`, else
    below `mlruns/`, or where the server that `MLFLOW_TRACKING_URI` names puts them. The store under `mlruns/`
    holds relative artifact paths, also one that an earlier version wrote.
    """
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    own_store = not os.environ.get("MLFLOW_TRACKING_URI")
    elsewhere = os.environ.get(ARTIFACTS_VARIABLE)
    TRACKING_DIRECTORY.mkdir(exist_ok=True)
    mlflow.set_tracking_uri(tracking_uri())
    if own_store:  # MLflow has just set it, and a process that works in another folder would inherit it
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        own = ARTIFACTS if own_store else None
        mlflow.create_experiment(EXPERIMENT, artifact_location=elsewhere or own)
    experiment = mlflow.set_experiment(EXPERIMENT)
    if own_store and not elsewhere and experiment.artifact_location.endswith(f"/{ARTIFACTS}"):
        make_paths_relative(TRACKING_DIRECTORY / "mlflow.db", ARTIFACTS)


@contextmanager
def tracked(stage: str, params: Params) -> Iterator[StageRun]:
    """Open the stage's MLflow run as a child of its pipeline's run."""
    connect_tracking()
    import mlflow

    section = params.model_dump(mode="json").get(stage, {})
    inputs = dependency_hashes(stage)
    digest = stage_hash(stage, inputs)
    parent = parent_run_id()
    tags = {
        "git.commit": git_commit(),
        "dvc.stage": stage,
        "dvc.stage_hash": digest,
        TAG: process_tag(),
        "params_md5": hashlib.md5(json.dumps(section, sort_keys=True).encode()).hexdigest(),
    }
    if flow_run := os.environ.get("METALDEFECT_FLOW_RUN_ID"):
        tags["prefect.flow_run_id"] = flow_run
    mlflow.start_run(run_name=stage, parent_run_id=parent, nested=True, tags=tags, log_system_metrics=True)
    status = "FAILED"
    try:
        active = mlflow.active_run()
        assert active is not None
        logged = dict(flatten(section)) | {"seed": params.seed}
        mlflow.log_params({key: str(value)[:500] for key, value in logged.items()})
        data = {path: md5 for path, md5 in inputs.items() if not is_code(path)}
        log_datasets(active.info.run_id, data)
        mlflow.log_dict(trace(stage, data, locked_stages()), LINEAGE)
        yield StageRun(stage, active.info.run_id, digest, parent)
        status = "FINISHED"
    finally:
        mlflow.end_run(status)
        if PARENT_RUN_VARIABLE not in os.environ:
            mlflow.MlflowClient().set_terminated(parent, status)


def log_datasets(run_id: str, data: Mapping[str, str]) -> None:
    """Log the data that a stage reads as MLflow datasets, whose digests are DVC's hashes."""
    import mlflow
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = [
        DatasetInput(
            Dataset(name=path, digest=md5, source_type="local", source=json.dumps({"uri": path})),
            [InputTag("mlflow.data.context", "input")],
        )
        for path, md5 in data.items()
    ]
    mlflow.MlflowClient().log_inputs(run_id, found)


def run_name(kind: str) -> str:
    """A name that says what ran and when, such as `retrain 2026-11-26 03:00`."""
    return f"{kind} {datetime.now(UTC):%Y-%m-%d %H:%M}"


def parent_run_id() -> str:
    """The id of this pipeline's parent run, which is created if it is missing.

    A flow passes the id in the environment. Under a plain `dvc repro` all stages are children of one `dvc`
    process, which identifies the run; a stage started by hand gets a parent run of its own.
    """
    if given := os.environ.get(PARENT_RUN_VARIABLE):
        return given
    import mlflow

    key, name, process = pipeline_process()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.`pipeline.key` = '{key}'", max_results=1
    )
    if found:
        return found[0].info.run_id
    close_dead_runs(experiment.experiment_id)
    tags = {"pipeline.key": key, "git.commit": git_commit(), TAG: process_tag(process)}
    return client.create_run(experiment.experiment_id, run_name=run_name(name), tags=tags).info.run_id


def pipeline_process() -> tuple[str, str, psutil.Process]:
    """(key, name, process) of what runs the pipeline: the nearest `dvc` ancestor, else this process."""
    process = psutil.Process()
    for ancestor in process.parents():
        try:
            words = [Path(word).name for word in ancestor.cmdline()[:4]]
        except psutil.Error:
            continue
        if "dvc" in words:
            return f"{ancestor.pid}-{ancestor.create_time():.2f}", "dvc repro", ancestor
    return f"{process.pid}-{process.create_time():.2f}", "single stage", process


def stage_definition(stage: str) -> Mapping[str, Any] | None:
    """The stage's entry in `dvc.yaml`, or None if it has none."""
    definition = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"].get(stage)
    return dict(definition) if definition is not None else None


def read_settings() -> dict[str, Any]:
    """The content of `params.yaml`."""
    return dict(yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")))


def dependency_hashes(stage: str) -> dict[str, str]:
    """MD5 of each dep of a stage, by path.

    For deps that other stages made, `dvc.lock` supplies the hash; files of the repository are hashed here.
    """
    definition = stage_definition(stage)
    if definition is None:
        return {}
    content = read_settings()
    known: dict[str, str] = {}
    for made in locked_stages().values():
        known |= {path: md5 for path, md5 in data_hashes(made.get("outs", [])).items() if md5}
    names = [dep.replace("${data.root}", str(content["data"]["root"])) for dep in definition.get("deps", [])]
    return {name: known.get(name) or content_hash(Path(name)) for name in names}


def stage_hash(stage: str, inputs: Mapping[str, str] | None = None) -> str:
    """MD5 over a stage's inputs: its command, its parameters and the content of its deps.

    Equal hashes mean equal inputs, so a stage restored from the cache finds the run that made it by this tag.
    `inputs` are the hashes of `dependency_hashes`; None: they are computed here.
    """
    definition = stage_definition(stage)
    if definition is None:
        return hashlib.md5(stage.encode()).hexdigest()
    content = read_settings()
    digest = hashlib.md5(str(definition["cmd"]).encode())
    for name in definition.get("params", []):
        digest.update(json.dumps([str(name), param_value(name, content)], sort_keys=True).encode())
    for dependency, md5 in (dependency_hashes(stage) if inputs is None else inputs).items():
        digest.update(dependency.encode())
        digest.update(md5.encode())
    return digest.hexdigest()


def param_value(entry: str | dict[str, list[str] | None], content: Mapping[str, Any]) -> Any:
    """The value of one entry of a stage's `params`; `content` is that of params.yaml.

    An entry is a dotted key in params.yaml, or names another file with its keys, None being all of them.
    """
    if isinstance(entry, str):
        return lookup(content, entry)
    ((file, keys),) = entry.items()
    values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return values if keys is None else [lookup(values, key) for key in keys]


def content_hash(path: Path) -> str:
    """MD5 of a file, or of the names and contents of a folder's files (without compiled Python)."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    digest = hashlib.md5()
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(str(file.relative_to(path)).encode())
            digest.update(hashlib.md5(file.read_bytes()).digest())
    return digest.hexdigest()


def lookup(content: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted key of nested mappings, or None if there is none."""
    value: Any = content
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def git_commit() -> str:
    """The checked-out commit, with the suffix `-dirty` if its files differ; `unknown` outside git.

    What a run itself writes does not count: `dvc.lock`, and the outs in `dvc.yaml`.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return "unknown"
    changed = [
        Path(name) for name in git("diff", "--name-only", "--relative", "-z", "HEAD").split("\0") if name
    ]
    written = run_outputs() if changed else []
    dirty = any(not any(path.is_relative_to(out) for out in written) for path in changed)
    return f"{commit}-dirty" if dirty else commit


def run_outputs() -> list[Path]:
    """Files and folders that running the pipeline writes: `dvc.lock` and every out in `dvc.yaml`."""
    file = Path("dvc.yaml")
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    outs = [out for entry in content.get("stages", {}).values() for out in entry.get("outs", [])]
    return [Path("dvc.lock"), *(Path(out if isinstance(out, str) else next(iter(out))) for out in outs)]


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their keys joined by dots."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def flatten_numbers(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The finite numbers among the leaves of `flatten`, under names that MLflow accepts."""
    return [
        ("".join(c if c.isalnum() or c in "_-. /" else "_" for c in key), float(value))
        for key, value in flatten(content, prefix)
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    ]
