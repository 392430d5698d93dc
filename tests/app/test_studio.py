"""The demo's functions, on small models saved as the pipeline saves them."""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from app.__main__ import main
from app.demo import build, build_without_models, page_of, serve
from app.familiar import Familiarity
from app.paint import offered_files
from app.reading import painted_mask, read_mask_of, read_photograph, read_settings, told
from app.studio import (
    Settings,
    Studio,
    decode_from_tokens,
    draw_defect,
    encode_to_tokens,
    generate_images,
    inpaint_image,
    inspect_image,
    visualize_mask_on_image,
)
from benchmarks.demo import page_seconds
from metaldefect.errors import UserError
from tests.app.conftest import metal
from tests.coloured import plates, save_coloured_painter

MASK = np.zeros((64, 64), bool)
MASK[24:40, 24:40] = True
FAST = Settings(seed=1, steps=2)


def test_tokens_round_trip(studio: Studio) -> None:
    tokens = encode_to_tokens(studio, metal(0))
    assert tokens.shape == (8, 8)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 20
    assert decode_from_tokens(studio, tokens, metal(0)).shape == (64, 64)
    with pytest.raises(UserError, match=r"expected \[0, 20\)"):
        decode_from_tokens(studio, torch.full((8, 8), 20), metal(0))
    with pytest.raises(UserError, match=r"expected \[8, 8\]"):
        decode_from_tokens(studio, torch.zeros(4, 4, dtype=torch.int64), metal(0))


def test_inpainting_changes_the_masked_part_alone_and_depends_on_the_seed(studio: Studio) -> None:
    image = metal(0)
    one = inpaint_image(studio, image, MASK, "patches", FAST)
    again = inpaint_image(studio, image, MASK, "patches", FAST)
    other = inpaint_image(studio, image, MASK, "patches", Settings(seed=2, steps=2))
    far = ndimage.distance_transform_edt(~MASK) > FAST.feather
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(one[far], image[far])
    assert not np.array_equal(one[MASK], image[MASK])


def test_every_step_of_drawing_becomes_a_frame_with_fewer_unknown_tokens(studio: Studio) -> None:
    drawn = draw_defect(studio, metal(0), MASK, "patches", Settings(steps=4))
    assert len(drawn.steps) == 4
    grey = [int((frame == 128).reshape(8, 8, 8, 8).all(axis=(1, 3)).sum()) for frame in drawn.steps]
    assert grey[0] > grey[-1] == 0
    assert drawn.changed.shape == (64, 64)


def test_a_slanted_stroke_is_drawn_along_itself_and_shown_as_it_lies(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[:64, :64] - 31.5
    angle = np.radians(35)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    stroke = (np.abs(along) < 20) & (np.abs(across) < 2)
    image = metal(0)
    image[stroke] = 20
    seen = []

    def frames(_: Studio, turned: np.ndarray, history: list[Any]) -> list[np.ndarray]:
        seen.append(turned)
        assert len(history) == 6
        return [turned]

    monkeypatch.setattr("app.studio.unmasking_frames", frames)
    drawn = draw_defect(studio, image, stroke, "patches", Settings(steps=6, feather=3.0))
    level = np.nonzero(seen[0][16:48, 16:48] < 60)[0]
    assert np.ptp(level) <= 6  # upright or level while it is drawn
    shown = drawn.steps[0] < 60
    assert (shown & stroke).sum() > 0.8 * (shown | stroke).sum()
    far = ndimage.distance_transform_edt(~stroke) > 3
    assert np.array_equal(drawn.image[far], image[far])


def test_a_drawing_that_nobody_could_see_is_not_offered_as_a_defect(studio: Studio, tmp_path: Path) -> None:
    drawn = draw_defect(studio, metal(0), MASK, "patches", FAST)._replace(changed=MASK)
    buttons = offered_files(tmp_path, metal(0), drawn, "patches", FAST)
    assert [Path(button.value["path"]).name for button in buttons] == [
        "image.png",
        "mask.png",
        "mvtec_patches.zip",
    ]
    assert all(button.interactive for button in buttons)
    invisible = drawn._replace(image=metal(0), changed=np.zeros_like(drawn.changed))
    buttons = offered_files(tmp_path / "none", metal(0), invisible, "patches", FAST)
    assert [(button.value, button.interactive) for button in buttons] == [(None, False)] * 3
    assert not (tmp_path / "none").exists()


def test_the_benchmark_does_what_a_person_at_the_page_waits_for(demo_root: Path, tmp_path: Path) -> None:
    image = demo_root / "data/merged/inspection/test/good/000.png"
    assert page_seconds(demo_root, tmp_path, image, MASK, "patches", draws=1) > 0
    files = {path.name for path in (tmp_path / "page1").iterdir()}
    assert files == {"image.png", "mask.png", "unmasking.gif", "mvtec_patches.zip"}


def test_generated_images_depend_on_their_seed(studio: Studio) -> None:
    images = generate_images(studio, "scratches", 2, FAST)
    assert images.shape == (2, 64, 64)
    assert not np.array_equal(images, generate_images(studio, "scratches", 2, Settings(seed=9, steps=2)))
    with pytest.raises(UserError, match="unknown class 'dent'"):
        generate_images(studio, "dent", 1, FAST)


def test_the_detector_finds_a_bright_spot(studio: Studio) -> None:
    image = np.full((64, 64), 120, np.uint8)
    assert not inspect_image(studio.detector, image).detection.is_anomalous
    image[30:34, 30:34] = 250
    verdict = inspect_image(studio.detector, image)
    assert verdict.detection.is_anomalous
    assert verdict.detection.score == pytest.approx(1.3, abs=0.01)
    assert verdict.milliseconds > 0


def test_the_mask_is_shown_in_red() -> None:
    mask = np.zeros((2, 2), bool)
    mask[0, 0] = True
    shown = visualize_mask_on_image(np.full((2, 2), 100, np.uint8), mask)
    assert shown[0, 0].tolist() == [170, 68, 68]
    assert shown[1, 1].tolist() == [100, 100, 100]
    with pytest.raises(UserError, match="mask has shape"):
        visualize_mask_on_image(np.zeros((3, 3), np.uint8), mask)


def test_the_painted_mask_is_what_a_layer_covers() -> None:
    layer = np.zeros((8, 8, 4), np.uint8)
    layer[1:3, 4] = [255, 30, 30, 128]
    image = np.zeros((8, 8), np.uint8)
    assert np.argwhere(painted_mask({"layers": [layer]}, image)).tolist() == [[1, 4], [2, 4]]
    with pytest.raises(UserError, match="Paint a mask first"):
        painted_mask({"layers": [np.zeros((8, 8, 4), np.uint8)]}, image)
    with pytest.raises(UserError, match="covers the whole image"):
        painted_mask({"layers": [np.full((8, 8, 4), 255, np.uint8)]}, image)
    with pytest.raises(UserError, match="Choose or upload an image"):
        painted_mask(None, None)


def test_models_of_colours_work_on_colours(tmp_path: Path) -> None:
    save_coloured_painter(tmp_path / "models/vq", tmp_path / "models/maskgit")
    (tmp_path / "models/openvino").mkdir()
    studio = Studio(tmp_path)
    image = plates(1, seed=9)[0][0]
    tokens = encode_to_tokens(studio, image)
    again = decode_from_tokens(studio, tokens, image).astype(int)
    assert (again[..., 0] - again[..., 2])[10:50, 10:50].mean() > 30
    drawn = draw_defect(studio, image, MASK, "rust", FAST)
    far = ndimage.distance_transform_edt(~MASK) > FAST.feather
    assert np.array_equal(drawn.image[far], image[far])
    assert {frame.shape for frame in drawn.steps} == {(64, 64, 3)}
    assert visualize_mask_on_image(drawn.image, drawn.changed).shape == (64, 64, 3)
    assert generate_images(studio, "dent", 1, FAST).shape == (1, 64, 64, 3)
    assert inpaint_image(studio, image[..., 0], MASK, "rust", FAST).shape == (64, 64, 3)
    layer = np.zeros((64, 64, 4), np.uint8)
    layer[1:3, 4] = 255
    assert painted_mask({"layers": [layer]}, image).sum() == 2


def test_a_mask_fits_the_upright_photograph(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was turned: 60 x 40 stored pixels are 40 x 60
    Image.new("L", (60, 40), 120).save(tmp_path / "turned.jpg", exif=exif)
    image = read_photograph(tmp_path / "turned.jpg").image
    assert image.shape == (60, 40)
    mask = np.zeros((60, 40), np.uint8)
    mask[5:9, 5:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert read_mask_of(tmp_path / "mask.png", tmp_path / "turned.jpg", image).sum() == 16
    Image.fromarray(np.ascontiguousarray(mask.T)).save(tmp_path / "stored.png")
    with pytest.raises(UserError, match="it fits the stored pixels only"):
        read_mask_of(tmp_path / "stored.png", tmp_path / "turned.jpg", image)


@pytest.mark.parametrize("seed", ["", "abc", "-1", "1.5", None, str(2**63), "9" * 5000])
def test_a_seed_that_is_no_whole_number_is_refused_with_its_reason(seed: str | None) -> None:
    with pytest.raises(gr.Error, match="seed must be a whole number"), told():
        read_settings(seed, 2.0, 0.7, 16)


def test_numbers_out_of_range_are_named() -> None:
    assert read_settings(" 42 ", 2.0, 0.7, 16) == Settings(seed=42)
    with pytest.raises(UserError, match="temperature"):
        read_settings("0", 2.0, 0.0, 16)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steps": None}, "steps must be a number, not nothing"),
        ({"steps": "many"}, "steps must be a number, not 'many'"),
        ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"temperature": float("nan")}, "temperature must be a number, not nan"),
        ({"guidance": 10**400}, "guidance must be a number, not int"),
        ({"guidance": []}, "guidance must be a number, not list"),
    ],
)
def test_a_missing_or_wrong_number_is_refused_with_its_reason(change: dict[str, Any], reason: str) -> None:
    numbers = {"guidance": 2.0, "temperature": 0.7, "steps": 16}
    with pytest.raises(gr.Error, match=reason), told():
        read_settings("0", **numbers | change)


def test_a_text_file_and_a_huge_image_are_refused_and_a_photograph_is_shrunk(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"notes\.txt"):
        read_photograph(tmp_path / "notes.txt")
    Image.new("1", (8000, 7000)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match=r"huge\.png.*pixels"):
        read_photograph(tmp_path / "huge.png")
    Image.new("RGB", (1600, 1200), (200, 40, 40)).save(tmp_path / "photo.jpg")
    photograph = read_photograph(tmp_path / "photo.jpg")
    assert photograph.image.shape == (768, 1024)
    assert [remark for remark in photograph.remarks if "colour picture" in remark]
    assert [remark for remark in photograph.remarks if "from 1600 × 1200 to 1024 × 768" in remark]
    in_colour = read_photograph(tmp_path / "photo.jpg", channels=3)
    assert in_colour.image.shape == (768, 1024, 3)
    assert not [remark for remark in in_colour.remarks if "colour picture" in remark]


def test_a_random_colour_picture_is_unlike_metal_and_metal_is_not(familiarity: Familiarity | None) -> None:
    assert familiarity is not None
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    assert familiarity.is_unlike(noise)
    assert not familiarity.is_unlike(metal(11))


def test_without_models_the_page_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`dvc repro`"):  # a project has no Makefile, the repository has one
        Studio(tmp_path)
    assert "`dvc repro`" in str(page_of(tmp_path, []).get_config_file())
    (tmp_path / "Makefile").write_text("repro: $(STAMP)\n")
    with pytest.raises(UserError, match="`make repro`"):
        Studio(tmp_path)


def test_a_wrong_folder_to_compare_with_ends_the_program(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_page(*_: Any) -> None:
        raise AssertionError("a page was served")

    monkeypatch.setattr("app.demo.serve", no_page)
    given = ["--root", str(demo_root), "--compare", str(tmp_path), "--port", "0"]  # 7860 may be taken
    monkeypatch.setattr("sys.argv", ["app", *given])
    with pytest.raises(SystemExit) as stop:
        main()
    reason = f"{tmp_path} holds no models/openvino: name the folder of a finished run"
    assert stop.value.code == f"demo: {reason}"
    with pytest.raises(UserError, match="holds no models/openvino"):
        Studio(demo_root, (tmp_path,))


def test_a_file_that_is_removed_from_its_field_takes_its_results_along(
    studio: Studio, familiarity: Familiarity | None
) -> None:
    functions = {block.fn.__name__: block.fn for block in build(studio, familiarity).fns.values() if block.fn}
    *shown, download = functions["reconstruct"](None)
    assert shown == ["", None, None, None, None]
    assert (download.value, download.interactive) == (None, False)
    assert functions["inspect"](None, 0.5) == (None, "", None, "")


def test_other_machines_need_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METALDEFECT_DEMO_PASSWORD", raising=False)
    with pytest.raises(UserError, match="set METALDEFECT_DEMO_PASSWORD"):
        serve(build_without_models("none"), host="0.0.0.0")
