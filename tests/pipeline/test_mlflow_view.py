"""The links into MLflow open pages that show the runs and their headline metrics, in a real browser."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from playwright.sync_api import expect

from pipeline.mlflow_view import comparison, links
from pipeline.registry import DETECTOR
from pipeline.run import connect_tracking

PATIENCE = 60_000  # milliseconds
NAMES = ("retrain 2026-11-01 03:00", "retrain 2026-11-08 03:00")
METRICS = {"image_auroc": 0.9712, "au_pro": 0.6523}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two parent runs, the older one the champion's, and a stage's run; ids of the parents."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
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
        client.set_terminated(run.info.run_id)
        made.append(run.info.run_id)
    client.create_run(experiment.experiment_id, run_name="merge")
    client.create_registered_model(DETECTOR)
    version = client.create_model_version(DETECTOR, f"runs:/{made[0]}/detector", made[0])
    client.set_registered_model_alias(DETECTOR, "champion", str(version.version))
    return made


@pytest.fixture
def server(runs: list[str], tmp_path: Path) -> Iterator[str]:
    """MLflow's server on the store of the runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlruns/mlflow.db"]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(address):
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        log.close()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab of a headless Chromium."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def test_the_links_open_pages_with_the_runs_and_their_metrics(
    page: Any, server: str, runs: list[str], tmp_path: Path
) -> None:
    expect.set_options(timeout=PATIENCE)
    addresses = [line.split()[-1] for line in links(tmp_path, server)]
    assert len(addresses) == 2
    for address, picture in zip(addresses, ("list", "comparison"), strict=True):
        page.goto(address)
        page.reload()  # two addresses that differ after # are one page to a browser
        try:
            for text in (*NAMES, *METRICS):
                expect(page.get_by_text(text, exact=True).first).to_be_visible()
            for value in ("0.971", "0.972"):
                expect(page.get_by_text(re.compile(rf"^{value}")).first).to_be_visible()
            if picture == "list":
                expect(page.get_by_text("merge", exact=True)).to_have_count(0)
        finally:
            page.screenshot(path=tmp_path / f"{picture}.png")


def test_nothing_is_compared_before_there_are_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert comparison(tmp_path) is None
    (line,) = links(tmp_path)
    assert "viewStateShareKey=headline" in line


def test_the_champions_run_is_compared_also_if_it_is_none_of_the_last(
    runs: list[str], tmp_path: Path
) -> None:
    compared = comparison(tmp_path, last=1)
    assert compared is not None
    assert [compared.index(run) for run in runs] == sorted(compared.index(run) for run in runs)
