"""What `metaldefect train` derives from images, masks and models is made anew when one of them changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.commands import sources
from metaldefect.commands.settings import load_settings
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.synthesis.insertion import Canvas

SIDE = 48


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MVTec AD layout with 12 normals and a masked defect, and two folders that stand for models."""
    rng = np.random.default_rng(0)
    names = [f"raw/train/good/{k:02d}.png" for k in range(12)] + ["raw/test/dent/0.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "raw/ground_truth/dent").mkdir(parents=True)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[10:20, 10:20] = 255
    Image.fromarray(mask).save(tmp_path / "raw/ground_truth/dent/0_mask.png")
    for model in ("vq", "maskgit"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "model.safetensors").write_bytes(bytes(64))
    return tmp_path


def change(path: Path) -> None:
    """Change one pixel of an image, or one byte of another file."""
    if path.suffix == ".png":
        pixels = np.asarray(Image.open(path)).copy()
        pixels[15, 15] = 255 - pixels[15, 15]
        Image.fromarray(pixels).save(path)
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\1")


def everything(folder: Path) -> set[bytes]:
    """The pixels of each image, with its mask, of the prepared dataset that a training reads."""
    real = RealDatasetProvider(folder)
    parts = [*real.train(), *real.validation(), *real.canvases(), *real.test()]
    return {item.image.tobytes() + (b"" if item.mask is None else item.mask.tobytes()) for item in parts}


@pytest.mark.parametrize(
    ("changed", "copied", "inserted"),
    [
        ("nothing", 0, 1),
        ("a canvas", 1, 2),
        ("raw/ground_truth/dent/0_mask.png", 1, 1),
        ("vq/model.safetensors", 0, 2),
        ("maskgit/model.safetensors", 0, 2),
    ],
)
def test_one_changed_pixel_or_weight_reaches_what_is_derived_from_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, changed: str, copied: int, inserted: int
) -> None:
    made: list[list[bytes]] = []

    def draw(canvases: Sequence[Canvas], settings: object, seed: int, folder: Path) -> None:
        made.append([canvas.image.tobytes() for canvas in canvases])
        (folder / "insertions.csv").write_text("path,canvas,scene,split\n")

    monkeypatch.setattr(sources, "insert_into", draw)
    settings = load_settings(
        Path("conf/efficientad.yaml"),
        {
            "output": root / "out",
            "source": "generated",
            "root": root / "raw",
            "adapter": "mvtec_ad",
            "generated": {"tokenizer": root / "vq", "maskgit": root / "maskgit"},
        },
    )
    sources.make_provider(settings, root / "work")
    before = everything(root / "work/inspection")
    if changed == "a canvas":
        changed = f"raw/train/good/{next((root / 'work/inspection/canvas/good').iterdir()).name}"
    if changed != "nothing":
        change(root / changed)
    sources.make_provider(settings, root / "work")
    after = everything(root / "work/inspection")
    assert len(after) == len(before) == 13
    assert len(after - before) == copied
    assert len(made) == inserted
