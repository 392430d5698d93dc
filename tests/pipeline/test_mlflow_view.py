"""The links into MLflow open pages that show the runs and their headline metrics, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from PIL import Image
from playwright.sync_api import expect
from typer.testing import CliRunner

from benchmarks.screenshots import (
    COMPARISON_SIZE,
    LIST_SIZE,
    MLFLOW_PAGES,
    open_mlflow,
    photograph_mlflow,
    serve_mlflow,
)
from pipeline.cli import app
from pipeline.headline import WORDS
from pipeline.mlflow_view import COLUMNS, SERVER, comparison, links, server_address
from pipeline.registry import DETECTOR
from pipeline.run import connect_tracking

NAMES = ("retrain 2026-11-01 03:00", "retrain 2026-11-08 03:00")
METRICS = {"image_auroc": 0.9712, "au_pro": 0.6523, "f1_at_threshold": 0.9125}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give_store: Callable[[Path], None]) -> list[str]:
    """Two parent runs, the older one the champion's, and a stage's run; ids of the parents."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    give_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    connect_tracking()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("metaldefect")
    assert experiment is not None
    made = []
    for day, name in enumerate(NAMES):
        tags = {"profile": "cpu", "verdict": "PROMOTE", "git.commit": "a" * 40, "data.md5": "22.dir"}
        started = 1_790_000_000_000 + 86_400_000 * day
        run = client.create_run(experiment.experiment_id, started, tags, run_name=name)
        for metric, value in METRICS.items():
            client.log_metric(run.info.run_id, metric, value + day / 1000)
        client.log_param(run.info.run_id, "calibrate.threshold_quantile", 0.99 - day / 100)
        client.set_terminated(run.info.run_id)
        made.append(run.info.run_id)
    client.create_run(experiment.experiment_id, run_name="merge")
    client.create_registered_model(DETECTOR)
    version = client.create_model_version(DETECTOR, f"runs:/{made[0]}/detector", made[0])
    client.set_registered_model_alias(DETECTOR, "champion", str(version.version))
    return made


def test_the_links_open_pages_with_the_runs_and_their_metrics(
    browser: Any, runs: list[str], tmp_path: Path
) -> None:
    values = [re.compile(rf"^{value}") for value in ("0.971", "0.972")]
    with serve_mlflow(tmp_path) as server:
        addresses = [line.split()[-1] for line in links(tmp_path, server)]
        for address, name in zip(addresses, MLFLOW_PAGES, strict=True):
            page = open_mlflow(browser, address, [*NAMES, *METRICS, *values])
            expect(page.get_by_placeholder("Ask a question")).to_have_count(0)  # of the assistant
            if name == "mlflow_list":
                expect(page.get_by_text("merge", exact=True)).to_have_count(0)
            page.close()


def test_both_pages_are_photographed(browser: Any, runs: list[str], tmp_path: Path) -> None:
    photograph_mlflow(browser, tmp_path, tmp_path)
    for name, size in zip(MLFLOW_PAGES, (LIST_SIZE, COMPARISON_SIZE), strict=True):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == size
            assert len(set(picture.getdata())) > 20, "an empty page has fewer colours"


def test_the_columns_of_the_list_are_headline_metrics() -> None:
    assert set(COLUMNS) <= set(WORDS)


def test_nothing_is_compared_before_there_are_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert comparison(tmp_path) is None
    (line,) = links(tmp_path)
    assert "viewStateShareKey=headline" in line


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("https://mlflow.plant/", "https://mlflow.plant"),
        ("postgresql://mlflow@db/mlflow", SERVER),  # `make ui` serves this store
        ("", SERVER),
    ],
)
def test_the_pages_are_on_the_server_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, uri: str, address: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert server_address() == address


def test_the_champions_run_is_compared_also_if_it_is_none_of_the_last(
    runs: list[str], tmp_path: Path
) -> None:
    compared = comparison(tmp_path, last=1)
    assert compared is not None
    assert [compared.index(run) for run in runs] == sorted(compared.index(run) for run in runs)


def test_deploy_says_where_the_links_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def deployed(_root: Path, port: int, flows_only: bool) -> str:
        assert not flows_only
        return f"server on {port}"

    monkeypatch.setattr("pipeline.deployment.deploy", deployed)
    answer = CliRunner().invoke(app, ["deploy"])
    assert answer.exit_code == 0
    assert answer.output.startswith("server on 4200\n")
    assert "python -m pipeline.mlflow_view" in answer.output
