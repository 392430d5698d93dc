"""`metaldefect lineage BUNDLE`: the way from a deployed detector back to its images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaldefect.deploy.bundle import Metadata, bundle_version, read_metadata
from metaldefect.errors import UserError
from pipeline.lineage import LINEAGE
from pipeline.run import EXPERIMENT, connect_tracking

Trace = dict[str, dict[str, dict[str, str]]]


@dataclass(frozen=True)
class Origin:
    """A bundle's export run and what it is made from; `run` is MLflow's."""

    run: Any
    parent: Any
    trace: Trace
    runs: dict[str, str]


def describe_lineage(root: Path, bundle: Path, list_images: bool) -> str:
    """The lineage as text: bundle, runs, commit, every stage, and the images at the end.

    Args:
        root: the project's folder, with MLflow's store and the DVC cache.
        bundle: an exported detector.
        list_images: name every image.

    Raises:
        UserError: no bundle, or its export run is not in this store.
    """
    metadata = read_metadata(bundle)
    with chdir(root):
        origin = find_origin(metadata, bundle)
    lines = [*heading(bundle, metadata, origin), ""]
    lines += tree(origin.trace, next(iter(origin.trace)), origin.runs, "", set())
    for path, md5 in raw_data(origin.trace).items():
        lines += ["", *images(root, path, md5, list_images)]
    return "\n".join(lines)


def find_origin(metadata: Metadata, bundle: Path) -> Origin:
    """The export run, its parent, and the run of every stage upstream."""
    connect_tracking()
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    run_id = metadata.lineage.mlflow_run
    if run_id is None:
        raise UserError(
            f"{bundle} names no MLflow run: `metaldefect train` or `export` made it, not a pipeline"
        )
    try:
        run = client.get_run(run_id)
        text = mlflow.artifacts.load_text(f"runs:/{run_id}/{LINEAGE}")
    except MlflowException as error:
        raise UserError(
            f"{bundle} was exported by MLflow run {run_id}, of which this project's store knows no {LINEAGE}:"
            " type this in the project that made it, or set MLFLOW_TRACKING_URI"
        ) from error
    parent_id = run.data.tags.get("mlflow.parentRunId")
    trace: Trace = json.loads(text)
    parent = client.get_run(parent_id) if parent_id else None
    return Origin(run, parent, trace, stage_runs(client, run, trace))


def stage_runs(client: Any, run: Any, trace: Trace) -> dict[str, str]:
    """The run of every stage: the last one before the export that read the same data."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = {run.data.tags["dvc.stage"]: run.info.run_id}
    for stage, entry in trace.items():
        if stage in found:
            continue
        condition = f"tags.`dvc.stage` = '{stage}' and attributes.status = 'FINISHED'"
        runs = client.search_runs([experiment.experiment_id], condition, max_results=100)
        for candidate in runs:
            read = {item.dataset.name: item.dataset.digest for item in candidate.inputs.dataset_inputs}
            if candidate.info.start_time <= run.info.start_time and read == entry["deps"]:
                found[stage] = candidate.info.run_id
                break
    return found


def heading(bundle: Path, metadata: Metadata, origin: Origin) -> Iterator[str]:
    """Version, verdict, runs, commit."""
    tags: Mapping[str, str] = origin.parent.data.tags if origin.parent is not None else {}
    yield f"{bundle}  version {bundle_version(bundle)}, {metadata.model}, {metadata.image_size} px"
    if "verdict" in tags:
        yield f"  verdict      {tags['verdict']}: {tags.get('reason', '')}"
    if origin.parent is not None:
        yield f"  pipeline     {origin.parent.info.run_name}  MLflow run {origin.parent.info.run_id}"
    yield f"  code         commit {metadata.lineage.git_commit or 'unknown'}"
    yield f"  weights      SHA-256 {metadata.lineage.model_sha256 or 'unknown'}"


def tree(trace: Trace, stage: str, runs: Mapping[str, str], indent: str, seen: set[str]) -> list[str]:
    """A stage and all that it read; a stage that was shown before is only named."""
    run = f"  MLflow run {runs[stage]}" if stage in runs else ""
    if stage in seen:
        return [f"{indent}{stage} (see above)"]
    seen.add(stage)
    lines = [f"{indent}{stage}{run}"]
    makers = {path: name for name, entry in trace.items() for path in entry["outs"]}
    for path, md5 in trace[stage]["deps"].items():
        lines.append(f"{indent}  {path}  md5 {md5}")
        if path in makers:
            lines += tree(trace, makers[path], runs, f"{indent}    ", seen)
    return lines


def raw_data(trace: Trace) -> dict[str, str]:
    """The data at the far end: what no stage but `sample` made, and the merged images."""
    made = {path: name for name, entry in trace.items() for path in entry["outs"]}
    found = {}
    for stage, entry in trace.items():
        for path, md5 in entry["deps"].items():
            if md5.endswith(".dir") and (made.get(path) in (None, "sample") or stage == "augment"):
                found[path] = md5
    return found


def images(root: Path, path: str, md5: str, list_images: bool) -> Iterator[str]:
    """The files of a folder in the DVC cache, counted by subfolder, or listed."""
    files = cached_files(root, md5)
    if files is None:
        yield f"{path}: md5 {md5} is not in this project's DVC cache: `dvc pull` fetches it"
        return
    yield f"{path}: {len(files)} files"
    if list_images:
        yield from (f"  {item['relpath']}  md5 {item['md5']}" for item in files)
        return
    counts = Counter(str(Path(item["relpath"]).parent) for item in files)
    yield from (f"  {folder}: {count}" for folder, count in sorted(counts.items()))


def cached_files(root: Path, md5: str) -> list[dict[str, str]] | None:
    """The list of files that DVC keeps of a folder, or None if the cache lacks it."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        cache = Path(repo.cache.local.path)
    file = cache / md5[:2] / md5[2:]
    with suppress(FileNotFoundError):
        return list(json.loads(file.read_text(encoding="utf-8")))
    return None
