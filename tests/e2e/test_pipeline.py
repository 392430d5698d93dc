"""The pipeline for real, at a tiny size, in a temporary clone: run, rerun, change, kill, flow."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.app.visitor import TELEPHONE, cut_off, offline_report, serious_faults
from tests.e2e.conftest import Project
from tests.pipeline.test_reruns import AFTER_CALIBRATION, reruns

pytestmark = pytest.mark.e2e

PAPER = 718  # px between the margins of A4 at 96 dots per inch

STAGES = [
    "sample", "merge", "augment", "finetune_vq", "evaluate_vq", "tokenize", "train_maskgit",
    "evaluate_maskgit", "synthesize", "evaluate_synthesis", "distill_teacher", "train_efficientad",
    "calibrate", "evaluate_efficientad", "export_openvino", "evaluate_openvino", "report",
]  # fmt: skip


def test_everything_is_made(project: Project) -> None:
    assert sorted(project.lock()) == sorted(STAGES)
    for path in (
        "data/merged/samples.parquet",
        "data/tokens/train/tokens.npy",
        "data/tokens/held_out/tokens.npy",
        "models/vq/snapshots/step_000000.safetensors",
        "models/maskgit/losses.csv",
        "metrics/headline.json",
        "models/vq/tokenizer.safetensors",
        "models/maskgit/maskgit.safetensors",
        "models/teacher",
        "models/efficientad/losses.csv",
        "models/detector",
        "models/openvino/detector_fp16.xml",
        "models/openvino/detector_int8.xml",
        "models/openvino/model.onnx",
        "data/synthetic/inserted/insertions.csv",
        "reports/index.html",
    ):
        assert (project.root / path).exists(), path
    page = (project.root / "reports/index.html").read_text()
    assert "data:image/webp;base64," in page
    assert 'src="http' not in page
    assert all(stage in page for stage in STAGES)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_whole_on_a_telephone_without_a_network(
    project: Project, browser: Any, scheme: str
) -> None:
    file = project.root / "reports/index.html"
    assert file.stat().st_size < 10e6
    with offline_report(browser, file, scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert serious_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == TELEPHONE


def test_the_printed_report_is_cut_nowhere(project: Project, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((project.root / "reports/index.html").as_uri())
    page.wait_for_selector(".chart .barlayer path")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER, "height": 1000})
    page.wait_for_function("[...document.querySelectorAll('.chart svg')].every((svg) => svg.clientWidth)")
    assert page.locator("#detector .chart svg").count() > 0
    assert cut_off(page) == []
    page.close()


def test_metrics_are_finite_numbers(project: Project) -> None:
    for stage in STAGES:
        if stage in ("export_openvino", "report"):  # their outs are measured by others
            continue
        text = (project.root / f"metrics/{stage}.json").read_text()
        assert not re.search(r"NaN|Infinity", text), stage
    merged = json.loads((project.root / "metrics/merge.json").read_text())
    assert merged["groups_across_splits"] == 0
    assert merged["expectations_failed"] == 0


def test_the_run_beats_the_trivial_answers(project: Project) -> None:
    """Quality, not only finite numbers: worse than these, something is broken."""

    def metrics(stage: str) -> dict:
        return json.loads((project.root / f"metrics/{stage}.json").read_text())

    tokenizer = metrics("evaluate_vq")
    constant, after = tokenizer["constant_image"], tokenizer["after"]
    assert after["ssim"]["mean"] > constant["ssim"]
    assert after["mse"]["mean"] < 0.75 * constant["mse"]
    tokens = metrics("evaluate_maskgit")
    assert tokens["masked_ce"] < tokens["unigram"] - 0.1
    # Chance is 0.5. The run reaches 1.0: procedural defects stand out, also after 60 steps.
    assert metrics("evaluate_efficientad")["image_auroc"] > 0.8


def test_the_terminal_shows_no_noise_of_other_packages(project: Project) -> None:
    noise = (
        "Warning", "deprecat", "CUDA", "GPU available", "TPU available", "HPU available", "litlogger",
        "LOCAL_RANK", "pkg_resources", "alembic", "INFO  [", "INFO mlflow", "Context impl", "[torch.onnx]",
    )  # fmt: skip
    found = [line for line in project.output.splitlines() if any(word in line for word in noise)]
    assert found == []
    assert "Running stage 'finetune_vq'" in project.output
    assert re.search(r"step 12/\d+ ", project.output)  # own lines stay


def test_plots_and_headline_are_what_dvc_shows(project: Project) -> None:
    headline = json.loads((project.root / "metrics/headline.json").read_text())
    shown = json.loads(project.dvc("metrics", "show", "--json"))[""]["data"]
    assert list(shown) == ["metrics/headline.json"]
    assert shown["metrics/headline.json"]["data"] == headline
    assert len(headline) >= 12
    project.run(sys.executable, "-m", "pipeline.plots_template")
    project.dvc("plots", "show", "-o", "plots_page")
    page = (project.root / "plots_page/index.html").read_text()
    assert not re.search(r"<script[^>]*src", page)
    for plot in ("tokenizer_losses", "tokenizer_quality", "maskgit_losses", "maskgit_cross_entropy"):
        assert f"vegaEmbed('#{plot}'" in page


def test_nothing_is_left_to_do(project: Project) -> None:
    assert "up to date" in project.dvc("status")
    before = (project.root / "dvc.lock").read_bytes()
    output = project.dvc("repro")
    assert output.count("didn't change, skipping") == len(STAGES)
    assert (project.root / "dvc.lock").read_bytes() == before


def test_mlflow_has_a_parent_with_one_child_per_stage(project: Project) -> None:
    with sqlite3.connect(project.root / "mlruns/mlflow.db") as store:
        runs = store.execute("select run_uuid, name, status from runs").fetchall()
        parents = [run for run in runs if run[1].startswith("dvc repro ")]
        assert parents
        children = store.execute(
            "select r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'mlflow.parentRunId' and t.value = ?",
            (parents[0][0],),
        ).fetchall()
        assert sorted(children) == sorted((stage, "FINISHED") for stage in STAGES)
        assert parents[0][2] == "FINISHED"
        keys = {row[0] for row in store.execute("select distinct key from tags")}
        assert {"git.commit", "dvc.stage", "dvc.stage_hash", "params_md5"} <= keys
        steps = store.execute(
            "select count(distinct step) from metrics m join runs r using (run_uuid) "
            "where r.name = 'train_maskgit' and m.key = 'masked_ce'"
        ).fetchone()
        assert steps[0] >= 3


def test_the_flow_finds_nothing_to_do_and_leaves_the_same_lock(project: Project) -> None:
    before = (project.root / "dvc.lock").read_bytes()
    output = project.run(sys.executable, "-m", "flows.run").stdout
    assert output.count("Unchanged") >= len(STAGES)
    assert (project.root / "dvc.lock").read_bytes() == before


@pytest.mark.parametrize(
    ("dotted", "value", "expected"),
    [
        ("synthesize.sampling.guidance", 1.5, {"synthesize", "evaluate_synthesis", *AFTER_CALIBRATION}),
        ("synthesize.insertions_per_class", 3, {"synthesize", "evaluate_synthesis", *AFTER_CALIBRATION}),
        ("evaluate_vq.curve_points", 3, {"evaluate_vq", "report"}),
        ("calibrate.false_alarms", 0.05, AFTER_CALIBRATION),
    ],
)
def test_what_a_change_reruns_in_a_finished_run(
    project: Project, dotted: str, value: object, expected: set[str]
) -> None:
    """With real outs; the whole table is in `test_reruns.py`."""
    before = (project.root / "params.yaml").read_text()
    try:
        project.set_param(dotted, value)
        assert reruns(project) == expected
    finally:
        (project.root / "params.yaml").write_text(before)


def test_a_killed_training_goes_on_to_the_same_weights(project: Project) -> None:
    project.set_param("train_maskgit.training.steps", 28)
    kill_after_checkpoint(project, "train_maskgit")
    resumed = project.dvc("repro", "train_maskgit")
    assert "going on from" in resumed
    after_kill = project.outs("train_maskgit")
    straight = project.dvc("repro", "--force", "--single-item", "train_maskgit")
    assert "going on from" not in straight
    assert project.outs("train_maskgit")["models/maskgit"] == after_kill["models/maskgit"]
    assert "up to date" in project.dvc("status", "train_maskgit")


def kill_after_checkpoint(project: Project, stage: str) -> None:
    """Start DVC on a stage and SIGKILL the whole process group once the stage has left a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", stage],
        cwd=project.root,
        env=project.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    folder = project.root / ".checkpoints" / stage
    try:
        while not has_checkpoint(folder):
            assert process.poll() is None, "the stage ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def has_checkpoint(folder: Path) -> bool:
    """Whether a whole checkpoint lies below a folder whose parts come and go.

    One that is still being written lies in a hidden folder beside its place.
    """
    return any(
        "last.ckpt" in names and not Path(inside).name.startswith(".") for inside, _, names in os.walk(folder)
    )


def test_bad_input_is_named_and_nothing_is_lost(project: Project) -> None:
    lock = (project.root / "dvc.lock").read_bytes()
    params = (project.root / "params.yaml").read_text()
    try:
        (project.root / "params.yaml").write_text(params + "colour: red\n")
        done = project.run(sys.executable, "-m", "stages.tokenize", check=False)
        assert done.returncode == 1
        assert "colour: Extra inputs are not permitted" in done.stdout
        assert "Traceback" not in done.stdout

        (project.root / "params.yaml").write_text(params.replace("root: data/sample", "root: data/nowhere"))
        done = project.run(sys.executable, "-m", "stages.merge", check=False)
        assert done.returncode == 1
        assert "data/nowhere" in done.stdout
    finally:
        (project.root / "params.yaml").write_text(params)
    assert (project.root / "data/merged/samples.parquet").is_file()
    assert (project.root / "dvc.lock").read_bytes() == lock
