"""A bundle proves that it is what was exported, or is refused with the reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.artifacts import read_json, sha256_file, write_json
from metaldefect.deploy.bundle import (
    PRECISIONS,
    SIGNATURE,
    read_description,
    read_metadata,
    write_metadata,
)
from metaldefect.deploy.golden import (
    choose_real_frames,
    draw_golden_frames,
    read_golden_frames,
    write_golden_frames,
)
from metaldefect.deploy.prediction_log import observed_columns
from metaldefect.deploy.reference import REFERENCE, add_reference, read_reference
from metaldefect.deploy.runtime import Detector
from metaldefect.deploy.signature import check_signature, sign
from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from tests.deploy.conftest import export_slim
from tests.deploy.keys import key_files
from tests.slim_detector import SIZE, noise

ROOT = Path(__file__).parents[2]
CAMERA_IMAGES = np.random.default_rng(0).integers(0, 200, (3, 90, 120), dtype=np.uint8)


def test_files_are_whole_and_described(exported: Path) -> None:
    content = read_json(exported / "metadata.json")
    assert content["schema_version"] == 2
    assert content["model"] == "EfficientAD-S"
    assert (content["image_size"], content["padding"]) == (128, True)
    assert content["input"]["channels"] == [1, 3]
    assert content["input"]["type"] == "u8"
    assert content["map_weights"] == {"student": 0.75, "autoencoder": 0.25}
    assert content["licence"] == "Apache-2.0"
    assert content["lineage"] == {
        "model_sha256": "model", "data_sha256": "data", "git_commit": "commit", "mlflow_run": "run",
    }  # fmt: skip
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert set(content["sha256"]) == files - {"metadata.json"}
    assert {name: sha256_file(exported / name) for name in content["sha256"]} == content["sha256"]
    assert str(ROOT).encode() not in (exported / "model.onnx").read_bytes()
    sizes = {p: (exported / f"detector_{p}.bin").stat().st_size for p in PRECISIONS}
    assert sizes["int8"] < 0.3 * sizes["fp32"]
    assert sizes["fp16"] < 0.55 * sizes["fp32"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_golden_frames_have_assorted_sizes_and_known_scores(exported: Path, precision: str) -> None:
    metadata = read_metadata(exported)
    frames = read_golden_frames(exported, metadata)
    assert {frame.shape for frame in frames} == {(128, 128, 1), (128, 192, 1), (96, 128, 1), (256, 160, 3)}
    detector = Detector.load(exported, precision)
    found = [detector.predict(frame).score for frame in frames]
    assert found == pytest.approx([item.scores[precision] for item in metadata.golden], rel=1e-3)
    assert len({round(score, 6) for score in found}) >= len(found) - 2, "INT8 may clip a few"


def test_some_golden_frames_are_validation_images(exported: Path) -> None:
    """The one that set the threshold is none: another machine may decide otherwise."""
    metadata = read_metadata(exported)
    names = [item.file for item in metadata.golden]
    assert names == [*(f"{index:02d}.png" for index in range(6)), "06_real.png", "07_real.png"]
    threshold = metadata.precisions["fp32"].threshold
    detector = Detector.load(exported, "fp32")
    clear = [image for image in noise(4)[:3] if abs(detector.predict(image).score - threshold) > 1e-4]
    for name, image in zip(names[6:], clear, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(exported / "golden" / name)), image)


def test_validation_images_of_a_16_bit_detector_stay_as_they_were_read(deep: Path) -> None:
    names = [item.file for item in read_metadata(deep).golden if item.file.endswith("_real.png")]
    assert {Image.open(deep / "golden" / name).mode for name in names} == {"L"}
    Detector.load(deep, "int8")


def test_golden_frames_keep_their_colours(tmp_path: Path) -> None:
    grey, colour = (np.random.default_rng(0).integers(0, 256, (20, 30, n), dtype=np.uint8) for n in (1, 3))
    assert write_golden_frames(tmp_path, [grey], [colour]) == ["00.png", "01_real.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "golden/00.png")), grey[..., 0])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "golden/01_real.png")), colour)


def test_images_that_may_not_be_passed_on_stay_out_of_the_bundle(tmp_path: Path) -> None:
    export_slim(tmp_path, noise(4), SIZE, channels=1, real_golden_frames=False)
    assert [item.file for item in read_metadata(tmp_path).golden] == [f"{n:02d}.png" for n in range(8)]
    assert len(list((tmp_path / "golden").iterdir())) == 8
    Detector.load(tmp_path, "fp16")


@pytest.mark.parametrize(
    ("usable", "chosen"),
    [
        ([True] * 16, [0, 2, 4, 6, 9, 11, 13, 15]),
        ([False, True, False, True], [1, 3]),
        ([False] * 4, []),
    ],
)
def test_validation_images_are_evenly_spread(usable: list[bool], chosen: list[int]) -> None:
    assert choose_real_frames(usable, 8) == chosen


def test_golden_frames_of_a_16_bit_detector_use_its_levels() -> None:
    levels = Levels(256, 4351, clip=False)
    deep, shallow = draw_golden_frames(128, levels, 3), draw_golden_frames(128, None, 3)
    for one, other in zip(deep, shallow, strict=True):
        assert one.dtype == np.uint16
        np.testing.assert_array_equal(levels.apply(one), other)
        assert len(np.unique(one)) > len(np.unique(other))


def test_a_runtime_that_computes_something_else_does_not_start(bundle: Path) -> None:
    content = read_json(bundle / "metadata.json")
    content["golden"][1]["scores"]["fp32"] += 0.01
    write_json(bundle / "metadata.json", content)
    with pytest.raises(UserError, match=r"fails its self-test: golden/01\.png scores .* in fp32, expected"):
        Detector.load(bundle, "fp32")
    Detector.load(bundle, "fp16")


@pytest.mark.parametrize("name", ["detector_int8.xml", "detector_int8.bin", "golden/00.png"])
def test_a_corrupt_file_is_refused(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} has SHA-256 .* restore the file"):
        Detector.load(bundle, "int8")
    Detector.load(bundle, "fp32", self_test=False) if "golden" not in name else None


def test_files_of_another_bundle_are_refused(bundle: Path, exported: Path) -> None:
    for suffix in (".xml", ".bin"):
        shutil.copy(exported / f"detector_fp32{suffix}", bundle / f"detector_int8{suffix}")
    with pytest.raises(UserError, match=r"detector_int8\.xml has SHA-256"):
        Detector.load(bundle, "int8")
    (bundle / "detector_fp16.bin").unlink()
    with pytest.raises(UserError, match=r"detector_fp16\.bin does not exist.*copy the whole bundle"):
        Detector.load(bundle, "fp16")


def test_metadata_of_other_versions_and_with_other_keys_is_refused(bundle: Path) -> None:
    content = read_json(bundle / "metadata.json")
    write_json(bundle / "metadata.json", content | {"schema_version": 1})
    with pytest.raises(UserError, match="schema_version 1, this version reads 2: export the detector again"):
        Detector.load(bundle)
    write_json(bundle / "metadata.json", content | {"treshold": 1})
    with pytest.raises(UserError, match=r"metadata\.json is not valid:\n.*treshold"):
        Detector.load(bundle)
    (bundle / "metadata.json").unlink()
    with pytest.raises(UserError, match=r"metadata\.json does not exist"):
        Detector.load(bundle)
    with pytest.raises(UserError, match="precision 'int4': expected one of fp32, fp16, int8"):
        write_json(bundle / "metadata.json", content)
        Detector.load(bundle, "int4")


def test_metadata_that_cannot_test_a_precision_are_refused(bundle: Path) -> None:
    content = read_json(bundle / "metadata.json")
    write_json(bundle / "metadata.json", content | {"golden": []})
    with pytest.raises(UserError, match=r"metadata\.json is not valid:\n +golden: .*at least 1"):
        Detector.load(bundle)
    del content["golden"][2]["scores"]["int8"]
    write_json(bundle / "metadata.json", content)
    with pytest.raises(UserError, match=r"is not valid:\n.*golden frame 02\.png has no score in int8"):
        Detector.load(bundle, "fp32")


def test_a_signed_bundle_is_accepted_from_its_owner_only(bundle: Path, tmp_path: Path) -> None:
    private, public = key_files(tmp_path, "plant")
    _, stranger = key_files(tmp_path, "stranger")
    with pytest.raises(UserError, match=r"metadata\.sig does not exist: sign the bundle"):
        Detector.load(bundle, public_key=public, self_test=False)
    sign(bundle, private)
    Detector.load(bundle, public_key=public, self_test=False)
    with pytest.raises(UserError, match="the bundle was changed, or another key signed it"):
        Detector.load(bundle, public_key=stranger, self_test=False)
    content = read_json(bundle / "metadata.json")
    content["precisions"]["int8"]["threshold"] = 9.0
    write_json(bundle / "metadata.json", content)
    with pytest.raises(UserError, match="the bundle was changed"):
        check_signature(bundle, public, read_description(bundle))


def test_a_bundle_can_be_signed_again_and_again_also_after_other_thresholds(
    bundle: Path, tmp_path: Path
) -> None:
    keys = [key_files(tmp_path, name) for name in ("plant", "line", "owner")]
    sign(bundle, keys[0][0])
    content = read_metadata(bundle).model_dump(exclude={"sha256"})
    assert SIGNATURE not in write_metadata(bundle, content).sha256
    for private, public in keys:
        sign(bundle, private)
        check_signature(bundle, public, read_description(bundle))


def test_openssl_accepts_the_signature(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    private, public = key_files(tmp_path, "plant")
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    files = ["-in", str(bundle / "metadata.json"), "-sigfile", str(sign(bundle, private))]
    assert subprocess.run([*command, *files], capture_output=True).returncode == 0


def test_a_bundle_with_a_changed_file_or_a_wrong_key_is_not_signed(bundle: Path, tmp_path: Path) -> None:
    private, public = key_files(tmp_path, "plant")
    with pytest.raises(UserError, match="holds no PEM key"):
        sign(bundle, public)
    with pytest.raises(UserError, match=r"none\.pem does not exist"):
        sign(bundle, tmp_path / "none.pem")
    (bundle / "golden/00.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"golden/00\.png has SHA-256"):
        sign(bundle, private)


def test_a_bundle_gets_one_row_per_image_and_precision_and_still_loads(bundle: Path) -> None:
    before = Detector.load(bundle, "fp32", self_test=False)
    add_reference(bundle, CAMERA_IMAGES)
    after = Detector.load(bundle, "fp32")
    assert after.version != before.version, "the metadata covers the new file"
    for precision in PRECISIONS:
        rows = read_reference(bundle, precision)
        assert len(rows) == 3
        columns = observed_columns(rows)
        assert columns["embedding"].shape == (3, 64)
        # of the camera's image, not of the one that the network sees
        assert columns["grey_std"] == pytest.approx([image.std() for image in CAMERA_IMAGES], rel=1e-6)
    scores = [after.predict(image).score for image in CAMERA_IMAGES]
    assert read_reference(bundle, "fp32")["score"].tolist() == pytest.approx(scores, abs=1e-5)


def test_a_bundle_without_a_reference_or_with_another_one_is_refused(bundle: Path) -> None:
    with pytest.raises(UserError, match="holds no reference for drift: export the detector again"):
        read_reference(bundle, "fp32")
    add_reference(bundle, CAMERA_IMAGES)
    (bundle / REFERENCE).write_bytes(b"other")
    with pytest.raises(UserError, match="SHA-256"):
        read_reference(bundle, "fp32")
