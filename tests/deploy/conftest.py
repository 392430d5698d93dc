"""One small exported detector for all deploy tests: an export takes seconds. The small network itself is
put in place per file, because files that run after these need the real one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaldefect.deploy.bundle import Lineage
from metaldefect.deploy.export import export_bundle
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.efficientad.evaluation import infer
from metaldefect.efficientad.model_files import DetectorConfig
from metaldefect.efficientad.torch_model import LAYERS, EfficientAD
from tests.slim_detector import SIZE, SLIM, noise, slim_model


@pytest.fixture(scope="module")
def slim() -> Iterator[None]:
    """EfficientAD with few channels, so that a frame takes milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYERS, "S", SLIM)
        yield


@pytest.fixture(scope="module")
def model(slim: None) -> EfficientAD:
    return slim_model()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test may change."""
    folder = tmp_path_factory.mktemp("openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYERS, "S", SLIM)
        model = slim_model()
        known = [infer(model, frame)[0] for frame in noise(3)]
        config = DetectorConfig("S", True, SIZE, sorted(known)[1], 0.5, "made up")
        export_bundle(InspectionGraph(model, SIZE), config, folder, noise(4), noise(3), known, Lineage(), 8)
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))
