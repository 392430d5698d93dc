"""Two classes of magnetic tiles as a project of their own: a toy dataset, and a stand-in for the run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from benchmarks import tile_classes
from benchmarks.tile_classes import CLASSES, chosen_tiles, copy_tiles
from metaldefect.artifacts import read_json, write_json
from metaldefect.images import read_grey, write_png
from metaldefect.procedural.images import generate_normal_image
from tests.plant import defective


def write_dataset(root: Path, tiles: int = 16) -> Path:
    """Tiles in the published layout, each under two exposures; masks have shades around the defect."""
    for number in range(4 * tiles):
        image = generate_normal_image(number, 128)
        folder = root / tile_classes.FREE / "Imgs"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"exp1_num_{number}.jpg", quality=95)
    for kind, (label, name) in enumerate(CLASSES.items()):
        folder = root / name / "Imgs"
        folder.mkdir(parents=True)
        for number in range(tiles):
            image, mask = defective(1000 * (kind + 1) + number, "dent", (128, 128))
            shades = np.maximum(mask, np.roll(mask // 3, 2, axis=1))
            for exposure in (1, 2):
                stem = f"exp{exposure}_num_{kind}{number:03d}"
                Image.fromarray(image // exposure).save(folder / f"{stem}.jpg", quality=95)
                Image.fromarray(shades).save(folder / f"{stem}.png")
        assert label in ("blowhole", "break")
    return root


def test_every_tile_comes_once_before_any_comes_twice(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, tiles=4) / "MT_Blowhole"
    assert [path.stem for path in chosen_tiles(folder, 6)] == [
        *(f"exp1_num_000{number}" for number in range(4)), "exp2_num_0000", "exp2_num_0001",
    ]  # fmt: skip
    with pytest.raises(tile_classes.UserError, match="holds 8 photographs, 9 are needed"):
        chosen_tiles(folder, 9)


def test_masks_are_copied_without_their_shades(tmp_path: Path) -> None:
    copy_tiles(write_dataset(tmp_path / "raw", tiles=4), tmp_path / "plant", 3, 5)
    assert len(list((tmp_path / "plant/good").glob("*.png"))) == 5
    for label in CLASSES:
        masks = sorted((tmp_path / "plant/masks" / label).glob("*.png"))
        images = sorted((tmp_path / "plant/defects" / label).glob("*.png"))
        assert [path.name for path in masks] == [path.name for path in images]
        assert len(masks) == 3
        for path in masks:
            mask = read_grey(path)
            assert set(np.unique(mask)) == {0, 255}
            assert np.count_nonzero(mask) == 24 * 28, "the shades beside the defect are not part of it"


def finish(project: Path) -> None:
    """Write what the stages would leave behind."""
    write_json(project / "metrics/finetune_vq.json", {"train_images": 100})
    ssim = {"mean": 0.7, "low": 0.6, "high": 0.8}
    write_json(project / "metrics/evaluate_vq.json", {name: {"ssim": ssim} for name in ("before", "after")})
    realism = {"insertion_realism_auroc": {"mean": 0.6, "low": 0.5, "high": 0.7}}
    write_json(project / "metrics/evaluate_synthesis.json", {"realism": realism})
    rng = np.random.default_rng(0)
    for folder, columns in (("merged", {"split": "train"}), ("synthetic", {})):
        rows = []
        for label in CLASSES:
            path = f"images/{label}/0.png"
            write_png(project / "data" / folder / path, rng.integers(0, 256, (64, 64)).astype(np.uint8))
            rows.append({"path": path, "label": label, **columns})
        pd.DataFrame(rows).to_parquet(project / "data" / folder / "samples.parquet")
    image = rng.integers(0, 256, (80, 100)).astype(np.uint8)
    mask = np.zeros((80, 100), np.uint8)
    mask[20:30, 20:30] = 255
    synthetic = project / "data/synthetic"
    lines = ["path,mask,label,split,canvas,scene,top,left,side"]
    for label in CLASSES:
        lines.append(f"test/{label}/0000.png,ground_truth/{label}/0000_mask.png,{label},test,c,s,8,10,64")
        write_png(synthetic / f"inserted/test/{label}/0000.png", image)
        write_png(synthetic / f"inserted/ground_truth/{label}/0000_mask.png", mask)
        for part, content in (("canvas", image), ("pasted", image), ("brush", mask)):
            write_png(synthetic / f"insertions/{label}/0000_{part}.png", content)
    (synthetic / "inserted/insertions.csv").write_text("\n".join(lines) + "\n")


def test_the_tiles_become_a_project_whose_figures_and_picture_are_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, stages = tile_classes.run, []

    def run(command: list[str], folder: Path) -> None:
        if command[0] != "dvc":
            return plain(command, folder)
        stages.append(command)
        return finish(folder)

    monkeypatch.setattr(tile_classes, "run", run)
    options = {
        "--dataset": write_dataset(tmp_path / "raw"), "--keep": tmp_path / "work", "--defects": 15,
        "--good": 60, "--tokenizer-steps": 3, "--maskgit-steps": 4,
        "--picture": tmp_path / "picture.png", "--results": tmp_path / "result.json",
    }  # fmt: skip
    words = [str(word) for option in options.items() for word in option]
    monkeypatch.setattr(sys, "argv", ["tile_classes", *words])
    tile_classes.main()
    output = capsys.readouterr().out.splitlines()
    result = read_json(tmp_path / "result.json")
    assert json.loads(output[-1])["figures"] == result["figures"]
    assert stages == [["dvc", "repro", "evaluate_vq", "evaluate_synthesis"]]
    figures = result["figures"]
    assert figures["ssim_after"] == {"value": 0.7, "low": 0.6, "high": 0.8}
    assert figures["insertion_realism_auroc"]["value"] == 0.6
    assert (figures["images_per_class"], figures["good_images"]) == (15, 60)
    assert "class_agreement_independent" in result["details"]["left_out"]
    assert "not measured: class_agreement_independent" in output
    params = yaml.safe_load((tmp_path / "work/tiles/params.yaml").read_text())
    assert params["data"]["classes"][:2] == ["blowhole", "break"]
    assert params["finetune_vq"]["training"]["steps"] == 3
    assert params["train_maskgit"]["training"]["steps"] == 4
    assert params["finetune_vq"]["training"]["mode"] == "decoder_only"
    assert params["train_maskgit"]["base"] == "shipped"
    with Image.open(tmp_path / "picture.png") as image:
        assert min(image.size) > 100


def test_a_work_folder_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(tile_classes.UserError, match="is not empty"), tile_classes.work_folder(tmp_path):
        pass
