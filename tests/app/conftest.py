"""A finished run in miniature: untrained models that draw noise, and a detector that finds bright spots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops
from PIL import Image
from scipy import ndimage

from app.demo import build, serve
from app.familiar import Familiarity, run_familiarity
from app.studio import Studio
from metaldefect.deploy.bundle import TOLERANCES, graph_file, write_metadata
from metaldefect.deploy.golden import write_golden_frames
from metaldefect.deploy.graph import INPUT
from tests.app.visitor import Visit
from tests.tiny_models import save_tiny_painter

SIZE = 64


def save_bright_spot_detector(folder: Path) -> None:
    """A bundle whose anomaly map is |grey level - 120| / 100."""
    frame = ops.parameter([1, -1, -1, 1], np.uint8, name=INPUT)
    levels = ops.transpose(ops.convert(frame, "f32"), np.array([0, 3, 1, 2]))
    distance = ops.abs(ops.subtract(levels, np.float32(120)))
    anomaly_map = ops.multiply(distance, np.float32(0.01))
    score = ops.reduce_max(anomaly_map, np.array([1, 2, 3]), keep_dims=False)
    outputs = []
    for name, node in (("anomaly_map", anomaly_map), ("score", score)):
        node.output(0).get_tensor().set_names({name})
        outputs.append(ops.result(node))
    frame.output(0).get_tensor().set_names({INPUT})
    folder.mkdir(parents=True)
    model = openvino.Model(outputs, [frame], "bright_spots")
    validation = {"images": 1, "false_alarm_rate": 0, "changed_decisions": 0, "largest_difference": 0}
    precisions = {}
    for name, threshold in (("fp16", 0.6), ("int8", 0.5)):
        openvino.save_model(model, folder / graph_file(name))
        precisions[name] = {
            "graph": graph_file(name),
            "threshold": threshold,
            "tolerance": TOLERANCES[name],
            "execution": "f32",
            "validation": validation,
        }
    (golden,) = write_golden_frames(folder, [np.full((SIZE, SIZE, 1), 220, np.uint8)])
    content = {
        "model": "bright spots",
        "padding": True,
        "image_size": SIZE,
        "input": {"name": INPUT, "type": "u8", "channels": (1,), "levels": None},
        "outputs": {},
        "map_weights": {},
        "threshold_source": "made up",
        "precisions": precisions,
        "golden": [{"file": golden, "scores": {"fp16": 1.0, "int8": 1.0}}],
        "lineage": {},
    }
    write_metadata(folder, content)


def metal(seed: int) -> np.ndarray:
    """Smooth grey texture around 120, `uint8 [64, 64]`."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(SIZE, SIZE)), 2)
    return np.clip(120 + 10 * noise / noise.std(), 80, 160).astype(np.uint8)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    save_tiny_painter(root / "models/vq", root / "models/maskgit")
    save_bright_spot_detector(root / "models/openvino")
    for kind, seeds in (("test", range(3)), ("train", range(3, 8))):
        folder = root / f"data/merged/inspection/{kind}/good"
        folder.mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(metal(seed)).save(folder / f"{seed:03d}.png")
    shutil.copy(Path(__file__).parents[2] / "params.yaml", root / "params.yaml")
    return root


@pytest.fixture(scope="session")
def studio(demo_root: Path) -> Studio:
    return Studio(demo_root)


@pytest.fixture(scope="session")
def familiarity(demo_root: Path) -> Familiarity | None:
    return run_familiarity(demo_root)


@pytest.fixture(scope="session")
def address(studio: Studio, familiarity: Familiarity | None) -> Iterator[str]:
    """The served page's address."""
    page = build(studio, familiarity)
    _, url, _ = serve(page, port=None, prevent_thread_lock=True, quiet=True)
    yield url.rstrip("/")
    page.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    """A visit during which the browser complained about nothing and asked no other server."""
    opened = Visit(browser, address)
    yield opened
    assert opened.complaints == []
    assert opened.outside == []
    opened.context.close()
