"""Three small exported detectors for all deploy tests: an export takes seconds. The small network itself is
put in place per file, because files that run after these need the real one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from metaldefect.deploy.bundle import Lineage
from metaldefect.deploy.export import export_bundle
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.efficientad.model_files import DetectorConfig
from metaldefect.efficientad.torch_model import LAYERS, EfficientAD, infer
from metaldefect.image_files import Levels
from metaldefect.images import Channels, ImageSize
from tests.conftest import made_once
from tests.slim_detector import SIZE, SLIM, noise, slim_model

DEEP_LEVELS = Levels(256, 4351, clip=False)  # 12 bits above a black level of 256
LINEAGE = Lineage(model_sha256="model", data_sha256="data", git_commit="commit", mlflow_run="run")


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
    return made_once(
        tmp_path_factory, "exported", lambda folder: export_slim(folder, noise(4), SIZE, channels=1)
    )


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a detector that sees colour at 128 x 160 px; no test may change it."""
    size = (128, 160)
    frames = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
    return made_once(
        tmp_path_factory, "coloured", lambda folder: export_slim(folder, frames, size, channels=3)
    )


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a detector for 16-bit frames; no test may change it."""

    def fill(folder: Path) -> None:
        export_slim(folder, noise(4), SIZE, channels=1, levels=DEEP_LEVELS)

    return made_once(tmp_path_factory, "deep", fill)


def export_slim(
    folder: Path,
    frames: np.ndarray,
    size: ImageSize,
    channels: Channels,
    levels: Levels | None = None,
    **options: bool,
) -> None:
    """Export a detector with few channels, calibrated on three frames; `options` of `export_bundle`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAYERS, "S", SLIM)
        model = slim_model()
        known = [infer(model, frame)[0] for frame in frames[:3]]
        config = DetectorConfig(
            "S", True, size, sorted(known)[1], 0.5, "made up", channels=channels, levels=levels
        )
        graph = InspectionGraph(model, size, levels, channels)
        export_bundle(graph, config, folder, frames, frames[:3], known, LINEAGE, 8, **options)


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))
