"""Where runs are compared, in a real browser: MLflow's list by its deep link, and the page of `compare`."""

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
import numpy as np
import pytest
from PIL import Image

from pipeline.compare import find_runs, render_page
from pipeline.headline import HEADLINE
from pipeline.mlflow_view import store_view
from pipeline.registry import DETECTOR
from pipeline.run import connect_tracking

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 1000
DAY = 86_400_000
START = 1_780_000_000_000  # 2026-05-28
REASON = "better: image AUROC 0.971 against 0.942 (+0.029, interval +0.011 to +0.048)"
VERDICTS = ("PROMOTE", "HOLD", "REJECT", "HOLD", "PROMOTE", "HOLD")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with six pipeline runs, a stage's run below each, and a champion."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(root)
        connect_tracking()
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("metaldefect")
        assert experiment is not None
        client.create_registered_model(DETECTOR)
        for week, verdict in enumerate(VERDICTS):
            run = client.create_run(
                experiment.experiment_id,
                start_time=START + 7 * week * DAY,
                run_name=f"retrain 2026-0{6 + week // 4}-0{1 + week % 4} 03:00",
                tags={
                    "profile": "real",
                    "verdict": verdict,
                    "reason": REASON,
                    "git.commit": f"{week}" * 40,
                    "data.md5": "9f" * 16,
                },
            ).info.run_id
            for place, name in enumerate(HEADLINE):
                client.log_metric(run, name, 0.6 + 0.05 * week + 0.01 * place + 0.03 * (week % 2))
            client.set_terminated(run, end_time=START + 7 * week * DAY + 5_400_000)
            client.create_run(
                experiment.experiment_id,
                start_time=START + 7 * week * DAY,
                run_name="a stage",
                tags={"mlflow.parentRunId": run},
            )
            if week == 4:
                client.log_text(run, "x", "detector/x.txt")
                version = client.create_model_version(DETECTOR, f"runs:/{run}/detector", run).version
                client.set_registered_model_alias(DETECTOR, "champion", str(version))
        yield root


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[str]:
    """MLflow's own server on the store; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", address.rpartition(":")[2], "--backend-store-uri", "sqlite:///mlruns/mlflow.db"]
    with (project / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=project, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not answers(address):
            assert time.monotonic() < deadline, (project / "server.log").read_text()
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/health", timeout=5)
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_the_link_opens_the_list_of_runs_with_the_headline_columns(
    browser: Any, server: str, tmp_path: Path
) -> None:
    """MLflow itself opens on an empty page for language models, and its list shows no metric."""
    page = browser.new_context(viewport={"width": 1600, "height": 900}).new_page()
    page.set_default_timeout(60 * SECONDS)
    page.goto(server + store_view())
    page.get_by_text("retrain 2026-07-02 03:00").first.wait_for()
    page.get_by_text("0.880").first.wait_for()
    page.wait_for_timeout(2 * SECONDS)
    picture = tmp_path / "mlflow.png"
    page.screenshot(path=picture)
    text = page.inner_text("body")
    page.context.close()
    for words in ("verdict", "profile", "image_auroc", "PROMOTE", "real"):
        assert words in text, words
    assert "a stage" not in text, "stages are folded away"
    assert np.asarray(Image.open(picture).convert("L")).std() > 5


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_of_compare_fits_a_screen_and_a_phone(
    browser: Any, project: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "compare.html"
    file.write_text(render_page(find_runs(project, 8), "line 3"), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url))
    page.goto(f"file://{file}")
    page.screenshot(path=tmp_path / "compare.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut off"
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('.multiples svg text')]"
        ".map(text => text.getBoundingClientRect().height))"
    )
    assert smallest >= 9, "the charts can be read"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    context.close()
    assert outside == [f"file://{file}"]
    levels = [int(word) for word in re.findall(r"\d+", background)]
    assert (sum(levels) < 150) == (scheme == "dark")
