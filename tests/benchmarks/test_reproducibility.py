"""What `python -m benchmarks.reproducibility` compares."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import reproducibility
from benchmarks.results import Interval


def write_run(root: Path, ssim: float, auroc: float, digest: str) -> None:
    """A finished run: metrics of two stages, latencies, and a lock with two outputs and the report."""
    (root / "metrics").mkdir(parents=True, exist_ok=True)
    mean = {"mean": ssim, "low": ssim - 0.01, "high": ssim + 0.01}
    found = {
        "evaluate_vq": {"after": {"ssim": mean}, "images": [1, 2], "base": "shipped", "kept": True},
        "evaluate_efficientad": {"image_auroc": auroc, "interval_95": {"image_auroc": [0.8, 1.0]}},
        "latency": {"fp32": {"p50_ms": ssim}},
    }
    for name, content in found.items():
        (root / f"metrics/{name}.json").write_text(json.dumps(content))
    outs = {"models/vq": digest, "data/merged": "same", "reports/index.html": digest}
    stages = {"one": {"outs": [{"path": path, "md5": md5} for path, md5 in outs.items()]}}
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))


def test_runs_are_compared_by_bytes_here_and_by_intervals_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = iter([(0.70, 0.95, "a"), (0.70, 0.96, "b"), (0.75, 0.90, "c")])
    environments = []

    def run(root: Path, _profile: str, number: int, more: dict[str, str]) -> None:
        environments.append(dict(more))
        assert number == len(environments)
        write_run(root, *next(runs))

    monkeypatch.setattr(reproducibility, "run", run)
    figures, details = reproducibility.compare(tmp_path, "tiny")

    assert [bool(more) for more in environments] == [False, False, True]
    assert environments[-1]["METALDEFECT_PRECISION"] == "float32", "bf16 would be emulated, for hours"
    assert (figures["outputs"], figures["outputs_unequal_on_one_machine"]) == (2, 1)
    assert details["unequal"] == ["models/vq"]
    assert figures["outputs_unequal_elsewhere"] == 1
    assert figures["numbers"] == 8  # no latency, word or truth value
    assert figures["numbers_unequal_on_one_machine"] == 1
    assert figures["ssim_difference"] == pytest.approx(0.05)
    assert figures["image_auroc_difference"] == pytest.approx(0.05)
    assert details["beyond"] == ["ssim"]
    assert not any(isinstance(figure, Interval) for figure in figures.values())


@pytest.mark.parametrize(("key", "same"), [("mlflow_run", True), ("data_sha256", False)])
def test_a_bundle_may_name_another_mlflow_run_and_nothing_else(tmp_path: Path, key: str, same: bool) -> None:
    hashes = []
    for value in ("a", "b"):
        bundle = tmp_path / "models/openvino"
        bundle.mkdir(parents=True, exist_ok=True)
        lineage = {"mlflow_run": "a", "data_sha256": "a"} | {key: value}
        (bundle / "metadata.json").write_text(json.dumps({"lineage": lineage}))
        outs = [{"path": "models/openvino", "md5": value}]
        (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {"export": {"outs": outs}}}))
        hashes.append(reproducibility.outputs(tmp_path))
    assert (hashes[0] == hashes[1]) is same


def test_a_run_covers_every_stage_once() -> None:
    text = (Path(__file__).resolve().parents[2] / "dvc.yaml").read_text()
    stages = yaml.safe_load(text.replace("${data.root}", "data/sample"))["stages"]
    needs = {name: places(stage, "deps") for name, stage in stages.items()}
    makes = {name: places(stage, *("outs", "metrics", "plots")) for name, stage in stages.items()}

    def before(name: str) -> set[str]:
        near = {other for other in stages if makes[other] & needs[name]}
        return near.union(*map(before, near))

    first = set(reproducibility.BEFORE_EXPORT).union(*map(before, reproducibility.BEFORE_EXPORT))
    second = {name for name in stages if reproducibility.EXPORT in before(name) | {name}}
    assert (first | second, first & second) == (set(stages), set())


def places(stage: dict[str, Any], *keys: str) -> set[str]:
    """The paths under some keys of a stage of dvc.yaml."""
    found = [item for key in keys for item in stage.get(key, ())]
    return {next(iter(item)) if isinstance(item, dict) else item for item in found}


@pytest.fixture
def fake_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that answers for DVC: it names a stage, then the limit of its CPU, and succeeds."""
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        """case "$2" in dvc) echo "Running stage 'merge':"; echo "$ONEDNN_MAX_CPU_ISA" >> limits;; esac\n"""
        "exit 0\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.delenv(reproducibility.ISA, raising=False)
    return tmp_path


def test_a_run_names_each_stage_as_it_begins(fake_dvc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reproducibility.run(fake_dvc, "tiny", 2, reproducibility.OTHER_MACHINE)
    lines = [re.sub(r"[\d.]+ min", "N min", line) for line in capfd.readouterr().err.splitlines()]
    assert lines == ["run 2 of 3, N min: merge"] * 2 + ["run 2 of 3 took N min"]
    assert (fake_dvc / "limits").read_text() == "AVX2\n\n", "OpenVINO cannot work under the limit"


def test_a_failed_run_shows_its_last_lines(fake_dvc: Path) -> None:
    script = fake_dvc / "python"
    script.write_text(script.read_text().replace("exit 0", 'test "$2" != dvc'))
    with pytest.raises(SystemExit, match=r"dvc repro.* failed:\nRunning stage 'merge':\n$"):
        reproducibility.run(fake_dvc, "tiny", 3, {})
