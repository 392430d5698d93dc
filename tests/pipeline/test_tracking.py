"""What MLflow knows about a run: datasets, lineage, and on the parent what runs are compared by."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import yaml
from dvc.repo import Repo

from metaldefect.errors import UserError
from metaldefect.hardware import cpu_name
from pipeline.compare import as_text, find_runs, render_page
from pipeline.dead_runs import is_gone, process_tag
from pipeline.environment import environment_tags
from pipeline.lineage_report import describe_lineage
from pipeline.params import Params, load_params
from pipeline.parent import describe_parent
from pipeline.prefect_settings import database_file
from pipeline.registry import DETECTOR
from pipeline.run import connect_tracking, tracked

ROOT = Path(__file__).parents[2]
GRAPH = {
    "sample": {"cmd": "s", "outs": ["data/sample"]},
    "merge": {"cmd": "m", "deps": ["data/sample", "metaldefect/errors.py"], "outs": ["data/merged"]},
    "export_openvino": {"cmd": "e", "deps": ["data/merged"], "outs": ["models/openvino"]},
}
LOCK = {
    "sample": {"outs": [{"path": "data/sample", "md5": "aa11.dir"}]},
    "merge": {
        "deps": [{"path": "data/sample", "md5": "aa11.dir"}, {"path": "metaldefect/errors.py", "md5": "cc"}],
        "outs": [{"path": "data/merged", "md5": "bb22.dir"}],
    },
}


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give_store: Callable[[Path], None]) -> Path:
    names = ("MLFLOW_TRACKING_URI", "METALDEFECT_ARTIFACTS", "METALDEFECT_PARENT_RUN_ID")
    for name in (*names, "METALDEFECT_FLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": GRAPH}, sort_keys=False))
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": LOCK}))
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    Path("metaldefect").mkdir()
    Path("metaldefect/errors.py").write_text("")
    Path("metrics").mkdir()
    Path("metrics/evaluate_efficientad.json").write_text('{"image_auroc": 0.97, "au_pro": 0.6}')
    give_store(tmp_path)
    return tmp_path


def test_a_stage_logs_its_data_as_datasets_and_where_they_come_from(project: Path, params: Params) -> None:
    with tracked("merge", params):
        pass
    with tracked("export_openvino", params) as run:
        pass
    found = mlflow.MlflowClient().get_run(run.run_id)
    assert {item.dataset.name: item.dataset.digest for item in found.inputs.dataset_inputs} == {
        "data/merged": "bb22.dir"
    }
    lineage = json.loads(mlflow.artifacts.load_text(f"runs:/{run.run_id}/lineage.json"))
    assert lineage == {
        "export_openvino": {"deps": {"data/merged": "bb22.dir"}, "outs": {}},
        "merge": {"deps": {"data/sample": "aa11.dir"}, "outs": {"data/merged": "bb22.dir"}},
        "sample": {"deps": {}, "outs": {"data/sample": "aa11.dir"}},
    }
    parent = mlflow.MlflowClient().get_run(run.parent_id)
    assert re.fullmatch(r"single stage \d{4}-\d\d-\d\d \d\d:\d\d", parent.info.run_name)
    assert (parent.info.status, found.info.status) == ("FINISHED", "FINISHED")


def test_the_parent_carries_what_runs_are_compared_by(project: Path, params: Params) -> None:
    Path("reports").mkdir()
    Path("reports/index.html").write_text("the report")
    with tracked("merge", params) as run:
        pass
    describe_parent(run.parent_id)
    describe_parent(run.parent_id)  # the flow and the report both do
    found = mlflow.MlflowClient().get_run(run.parent_id)
    assert found.data.metrics == {"image_auroc": 0.97, "au_pro": 0.6}
    assert found.data.params["train_efficientad.steps"] == "240"
    assert found.data.params["seed"] == "0"
    assert (found.data.tags["data.md5"], found.data.tags["profile"]) == ("bb22.dir", "own settings")
    assert len(found.data.tags["dvc.lock_md5"]) == 32
    assert found.data.tags["machine"] == cpu_name()
    assert found.data.tags["python"] == platform.python_version()
    assert "requirements.lock_sha256" not in found.data.tags
    listing = mlflow.artifacts.load_text(f"runs:/{run.parent_id}/environment.txt").splitlines()
    assert f"mlflow=={mlflow.__version__}" in listing
    assert listing == sorted(listing)
    assert found.data.tags["environment.md5"] == hashlib.md5("\n".join(listing).encode()).hexdigest()
    names = {item.path for item in mlflow.MlflowClient().list_artifacts(run.parent_id)}
    assert names == {"dvc.lock", "params.yaml", "environment.txt", "index.html"}
    assert mlflow.artifacts.load_text(f"runs:/{run.parent_id}/index.html") == "the report"


def test_a_stage_logs_what_it_needs_of_the_machine(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with tracked("merge", params) as run:
        until = time.monotonic() + 60
        while not (found := system_metrics(run.run_id)) and time.monotonic() < until:
            time.sleep(0.2)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= found


def system_metrics(run_id: str) -> set[str]:
    return {name for name in mlflow.MlflowClient().get_run(run_id).data.metrics if name.startswith("system/")}


def test_the_store_is_where_the_environment_says(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """So Postgres and S3 take their places without a change of code."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    unused = (project / "mlruns/mlflow.db").read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}/store.db")
    monkeypatch.setenv("METALDEFECT_ARTIFACTS", str(elsewhere / "artifacts"))
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://prefect@db/prefect")
    with tracked("merge", params) as run:
        pass
    assert (elsewhere / "artifacts" / run.run_id / "artifacts/lineage.json").is_file()
    assert (project / "mlruns/mlflow.db").read_bytes() == unused
    assert len(list((project / "mlruns").iterdir())) == 1
    assert database_file() is None


@pytest.mark.parametrize("place", ["s3://bucket/metal", "s3://bucket/mlruns/artifacts"])
def test_artifacts_lie_where_the_environment_says(
    project: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("METALDEFECT_ARTIFACTS", place)
    for _ in range(2):
        connect_tracking()
    experiment = mlflow.get_experiment_by_name("metaldefect")
    assert experiment is not None
    assert experiment.artifact_location == place
    run = mlflow.MlflowClient().create_run(experiment.experiment_id)
    assert run.info.artifact_uri == f"{place}/{run.info.run_id}/artifacts"


def test_the_lock_file_that_an_environment_comes_from_is_named(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_bytes(b"abc")
    tags = environment_tags(tmp_path)
    # FIPS 180-4's example
    assert tags["requirements.lock_sha256"].startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9c")


def bundle_of(run_id: str | None, folder: Path) -> Path:
    """Metadata as an exported detector has them."""
    precision = {
        "graph": "g.xml",
        "threshold": 0.5,
        "tolerance": {"absolute": 1, "relative": 1},
        "execution": "f32",
        "validation": {
            "images": 1,
            "false_alarm_rate": 0,
            "changed_decisions": 0,
            "largest_difference": 0,
        },
    }
    content: dict[str, Any] = {
        "schema_version": 2,
        "model": "EfficientAD-S",
        "padding": True,
        "image_size": 128,
        "input": {"name": "frame", "type": "u8", "channels": [1, 3], "levels": None},
        "outputs": {},
        "map_weights": {},
        "threshold_source": "",
        "precisions": {"fp32": precision},
        "golden": [{"file": "00.png", "scores": {"fp32": 0.1}}],
        "lineage": {"git_commit": "be2d409", "mlflow_run": run_id},
        "sha256": {},
    }
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(content))
    return folder


def test_the_way_from_a_bundle_to_its_images(project: Path, params: Params) -> None:
    with tracked("merge", params) as merge:
        pass
    with tracked("export_openvino", params) as export:
        pass
    mlflow.MlflowClient().set_tag(export.parent_id, "verdict", "PROMOTE")
    # what ran since does not matter
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {}}))
    Repo.init(str(project), no_scm=True).close()
    cache = project / ".dvc/cache/files/md5/aa"  # DVC 3's layout
    cache.mkdir(parents=True)
    files = [{"md5": f"{k}", "relpath": f"good/{k}.png"} for k in range(3)]
    (cache / "11.dir").write_text(json.dumps([*files, {"md5": "9", "relpath": "dent/9.png"}]))
    bundle = bundle_of(export.run_id, project / "champion")

    text = describe_lineage(project, bundle, list_images=False)
    assert text.splitlines()[0].endswith("EfficientAD-S, 128 px")
    assert "verdict      PROMOTE" in text
    assert "commit be2d409" in text
    tree = text[text.index("\nexport_openvino") :].splitlines()[1:]
    assert tree[:5] == [
        f"export_openvino  MLflow run {export.run_id}",
        "  data/merged  md5 bb22.dir",
        f"    merge  MLflow run {merge.run_id}",
        "      data/sample  md5 aa11.dir",
        "        sample",
    ]
    assert text.endswith("data/sample: 4 files\n  dent: 1\n  good: 3")
    listed = describe_lineage(project, bundle, list_images=True)
    assert listed.endswith("  good/2.png  md5 2\n  dent/9.png  md5 9")

    with pytest.raises(UserError, match="names no MLflow run"):
        describe_lineage(project, bundle_of(None, project / "other"), False)
    with pytest.raises(UserError, match=r"this project's store knows no lineage\.json"):
        describe_lineage(project, bundle_of("0" * 32, project / "foreign"), False)


def test_what_serves_is_compared_with_the_last_runs(project: Path) -> None:
    with pytest.raises(UserError, match="no finished pipeline run in MLflow yet"):
        find_runs(project, 3)
    connect_tracking()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("metaldefect")
    assert experiment is not None
    made = []
    for day, (auroc, kid) in enumerate([(0.90, 1.2), (0.95, 1.1), (0.80, 1.0), (0.97, 1.4)], 1):
        run = client.create_run(
            experiment.experiment_id,
            start_time=86_400_000 * day,
            run_name=f"retrain 1970-01-0{day + 1} 00:00",
            tags={"profile": "cpu", "verdict": "HOLD", "reason": "<ties> hold", "git.commit": "a" * 40},
        )
        client.log_metric(run.info.run_id, "image_auroc", auroc)
        client.log_metric(run.info.run_id, "kid_ratio", kid)
        client.set_terminated(run.info.run_id)
        made.append(run.info.run_id)
    client.create_run(experiment.experiment_id, run_name="a stage")  # no parent, no profile
    client.log_text(made[0], "x", "detector/x.txt")
    client.create_registered_model(DETECTOR)
    version = client.create_model_version(DETECTOR, f"runs:/{made[0]}/detector", made[0])
    client.set_registered_model_alias(DETECTOR, "champion", str(version.version))

    rows = find_runs(project, 3)
    # the champion first although three newer runs fill the list, then from new to old
    assert [row.run_id for row in rows] == [made[0], made[3], made[2], made[1]]
    text = as_text(rows, colour=True)
    assert "* retrain 1970-01-02 00:00 (serves)" in text
    assert re.search(r"\033\[32m +0\.9700\033\[0m\033\[31m +1\.400\033\[0m", text)  # better, worse
    assert "\033" not in as_text(rows, colour=False)
    page = render_page(rows, "line 3")
    assert "What serves, against the last 3 runs" in page
    assert '<td class="number good">0.9700</td>' in page
    assert "&lt;ties&gt; hold" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert page.count("<svg") == 2  # one chart per metric, readable on a phone
    assert page.index("Detector: image AUROC") < page.index("Drawn images: KID ratio")
    assert '<td data-name="verdict"><b class="middling">HOLD</b></td>' in page


def test_runs_of_killed_processes_are_ended_by_the_next_one(project: Path, params: Params) -> None:
    connect_tracking()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("metaldefect")
    assert experiment is not None
    killed = subprocess.Popen(["sleep", "60"])
    gone = process_tag(psutil.Process(killed.pid))
    assert not is_gone(gone)
    killed.kill()
    killed.wait()
    here, number, birth = process_tag().rsplit(" ", 2)
    tags = {
        "killed": gone,
        "its id was given to another process": f"{here} {number} {birth}0",
        "alive": process_tag(),
        "of another machine": f"elsewhere {number} 1.00",
    }
    runs = {
        name: client.create_run(experiment.experiment_id, tags={"process": tag}).info.run_id
        for name, tag in tags.items()
    }
    with tracked("merge", params):
        pass
    states = {name: client.get_run(run).info.status for name, run in runs.items()}
    assert states == {
        "killed": "KILLED",
        "its id was given to another process": "KILLED",
        "alive": "RUNNING",
        "of another machine": "RUNNING",
    }
