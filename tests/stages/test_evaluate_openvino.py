"""The `evaluate_openvino` stage: what it writes, and the exports that it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metaldefect.artifacts import read_json
from metaldefect.deploy.bundle import PRECISIONS
from metaldefect.efficientad.model_files import DetectorConfig, save_detector
from metaldefect.efficientad.torch_model import LAYERS
from metaldefect.errors import UserError
from pipeline.params import load_params
from stages import evaluate_openvino
from tests.slim_detector import SIZE, SLIM, slim_model

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml").evaluate_openvino


class Stage:
    """The stage in a project whose trained detector comes from a seed; the export is that of seed 0."""

    def __init__(self, root: Path, seed: int) -> None:
        (root / "models/detector").mkdir(parents=True)
        config = DetectorConfig("S", True, SIZE, 0.2, 0.5, "made up")
        save_detector(root / "models/detector", slim_model(seed), config, {})
        self.logged: dict[str, Any] = {}

    def run(self) -> None:
        run: Any = SimpleNamespace(
            log_metrics=lambda metrics, prefix="": self.logged.update({prefix: metrics}),
            log_figure=lambda figure, name: None,
        )
        section = PARAMS.model_copy(update={"latency_frames": 2, "parity_images": 2})
        params: Any = SimpleNamespace(evaluate_openvino=section)
        evaluate_openvino.main(params, run)


@pytest.fixture
def root(planted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with planted images and their export, but without a trained detector."""
    monkeypatch.setitem(LAYERS, "S", SLIM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate_openvino, "EXPORT", planted["good"])
    monkeypatch.setattr(evaluate_openvino, "INSPECTION", planted["inspection"])
    return tmp_path


def test_an_export_of_the_trained_networks_is_measured(root: Path) -> None:
    stage = Stage(root, seed=0)
    stage.run()
    metrics = read_json(root / "metrics/evaluate_openvino.json")
    assert metrics["parity"]["max_abs_error"] < 1e-4
    assert metrics["fp32"]["image_auroc"] == 1.0
    assert set(PRECISIONS) < set(metrics)
    assert (stage.logged[""], set(stage.logged)) == (metrics, {"", "latency."})
    assert (root / "plots/evaluate_openvino/accuracy_and_size_by_precision.png").is_file()


def test_an_export_of_other_networks_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"differs from the trained one by .*more than evaluate_openvino"):
        Stage(root, seed=1).run()
    assert not (root / "metrics").exists()


@pytest.mark.parametrize(("error", "refused"), [(5e-4, True), (2e-5, False)])
def test_more_than_a_ten_thousandth_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: float, refused: bool
) -> None:
    monkeypatch.setattr(evaluate_openvino, "parity", lambda *_: {"max_abs_error": error})
    stage = Stage(root, seed=0)
    if refused:
        with pytest.raises(UserError, match=r"max_parity_error 1\.00e-04"):
            stage.run()
    else:
        stage.run()
