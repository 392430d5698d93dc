import copy
import hashlib
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image

from metaldefect.commands.export import as_of_new_images, code_commit, data_sha256, export_beside
from metaldefect.deploy import export
from metaldefect.deploy.accuracy import against_fp32, precision_accuracy
from metaldefect.deploy.bundle import ONNX, PRECISIONS, SIGNATURE, Lineage, graph_file, read_metadata
from metaldefect.deploy.calibration import with_painted_anomalies
from metaldefect.deploy.compiled import CompiledGraph
from metaldefect.deploy.export import export_onnx, export_openvino, parity, set_thresholds
from metaldefect.deploy.graph import INPUT, InspectionGraph, fold_teacher_constants, resize_levels
from metaldefect.deploy.latency import measure_latency
from metaldefect.deploy.reference import read_reference
from metaldefect.deploy.runtime import Detector, overlay
from metaldefect.efficientad.anomaly_map import map_to_size
from metaldefect.efficientad.calibration import Calibration, CalibrationImages, PapersScore, Scores
from metaldefect.efficientad.evaluation import Scored
from metaldefect.efficientad.model_files import TRAINED, WEIGHTS, DetectorConfig, read_scores
from metaldefect.efficientad.torch_model import EfficientAD, infer
from metaldefect.image_files import Levels
from metaldefect.images import resize
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import InspectionImage, InspectionImages
from metaldefect.procedural.images import generate_normal_image
from tests.slim_detector import SIZE, noise, slim_model

UNUSED = PapersScore({}, is_the_detectors=True)


def as_pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Grey image as Pillow reads and resizes it."""
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR)).astype(np.float32)


def test_folded_teacher_gives_normalised_features(model: EfficientAD) -> None:
    images = torch.rand(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = model.normalised_teacher(images)
        torch.testing.assert_close(
            fold_teacher_constants(model).teacher(images), expected, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("size", [(128, 128), (90, 140), (300, 200), (64, 64), (256, 256), (129, 128)])
def test_the_graph_resizes_as_pillow_does(size: tuple[int, int]) -> None:
    image = generate_normal_image(0, 300)[: size[0], : size[1]]
    found = resize_levels(torch.from_numpy(image.astype(np.float32))[None], SIZE)[0].numpy()
    difference = np.abs(found - as_pillow(image, SIZE, SIZE))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03, "only exact halves may be rounded otherwise"
    assert found.std() > 5


def test_the_graph_makes_colour_grey_as_pillow_does(model: EfficientAD) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    grey = InspectionGraph(model, SIZE).grey(torch.from_numpy(colours[None]))[0].numpy()
    np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(colours).convert("L")))
    single = InspectionGraph(model, SIZE).grey(torch.from_numpy(colours[None, :, :, :1]))[0].numpy()
    np.testing.assert_array_equal(single, colours[:, :, 0])


def test_a_16_bit_graph_makes_grey_as_the_reader_does(model: EfficientAD) -> None:
    levels = Levels(256, 4351, clip=True)
    pixels = np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.uint16)
    pixels[:15] = pixels[:15] % 5000
    grey = InspectionGraph(model, SIZE, levels).grey(torch.from_numpy(pixels[None, :, :, None]))[0].numpy()
    np.testing.assert_array_equal(grey, levels.apply(pixels))


def test_onnx_and_fp32_compute_what_torch_computes(model: EfficientAD, exported: Path) -> None:
    rng = np.random.default_rng(3)
    assorted = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((90, 140), (300, 200), (64, 64, 3))]
    errors = parity(InspectionGraph(model, SIZE), exported, [*noise(2), *assorted])
    assert set(errors) == {"onnx_map", "onnx_score", "fp32_map", "fp32_score", "max_abs_error"}
    assert 0 <= errors["max_abs_error"] < 1e-4


def test_the_other_border_pooling_and_16_bits_are_exported(slim: None, tmp_path: Path) -> None:
    levels = Levels(0, 4095, clip=False)
    graph = InspectionGraph(slim_model(count_include_pad=False), SIZE, levels)
    export_onnx(graph, tmp_path / ONNX)
    frame = np.random.default_rng(0).integers(0, 4096, (1, 140, 130, 1), dtype=np.uint16)
    with torch.inference_mode():
        expected = graph(torch.from_numpy(frame))[0].numpy()
    session = onnxruntime.InferenceSession(tmp_path / ONNX, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["anomaly_map"], {INPUT: frame})[0], expected, atol=1e-4)
    fp32 = openvino.Core().compile_model(tmp_path / ONNX, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(fp32({INPUT: frame})["anomaly_map"], expected, atol=1e-4)


def test_parity_sees_another_model(exported: Path) -> None:
    other = InspectionGraph(slim_model(seed=1), SIZE)
    assert parity(other, exported, noise(1))["max_abs_error"] > 1e-2


def test_the_runtime_scores_what_training_scored(model: EfficientAD, exported: Path) -> None:
    image = noise()[0]
    score, anomaly_map = infer(model, image)
    detection = Detector.load(exported, "fp32", self_test=False).predict(image)
    assert detection.score == pytest.approx(score, abs=1e-4)
    np.testing.assert_allclose(detection.anomaly_map, anomaly_map, atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.0, 1.0])
def test_parity_sees_other_map_weights(model: EfficientAD, exported: Path, share: float) -> None:
    other = copy.deepcopy(model)
    other.map_weights.copy_(torch.tensor([share, 1 - share]))
    assert parity(InspectionGraph(other, SIZE), exported, noise(1))["max_abs_error"] > 1e-3


@pytest.mark.parametrize("size", [(256, 128), (64, 256), (128, 384)])
def test_training_and_runtime_give_one_map_at_the_images_size(
    model: EfficientAD, exported: Path, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    expected = map_to_size(infer(model, resize(image, SIZE))[1], size)
    found = Detector.load(exported, "fp32", self_test=False).predict(image).anomaly_map
    assert found.shape == size
    # A level that is an exact half may be rounded otherwise in the training's resize
    assert np.abs(found - expected).mean() < 1e-3 * np.abs(expected).mean()


def test_the_filter_of_maps_is_bilinear_at_pixel_centres() -> None:
    ramp = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    np.testing.assert_allclose(
        map_to_size(ramp, (1, 8))[0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6
    )
    np.testing.assert_allclose(map_to_size(ramp, (1, 2))[0], [0.5, 2.5], atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_threshold_of_a_precision_flags_what_that_of_the_trained_networks_flags(
    exported: Path, precision: str
) -> None:
    detector = Detector.load(exported, precision)
    scores = sorted(detector.detect(frame)[0] for frame in noise(3))
    assert detector.threshold == pytest.approx(scores[1], rel=1e-5)
    assert detector.metadata.precisions[precision].validation.images == 3
    assert detector.metadata.precisions[precision].validation.false_alarm_rate == pytest.approx(1 / 3)


def test_other_thresholds_are_set_in_metadata_and_graphs(bundle: Path) -> None:
    before = {name: Detector.load(bundle, name).detect(noise(1)[0])[0] for name in PRECISIONS}
    thresholds = {name: 0.25 + index for index, name in enumerate(PRECISIONS)}
    set_thresholds(bundle, thresholds, "by hand", {name: np.array([0.0, 9.0]) for name in PRECISIONS})
    for name in PRECISIONS:
        detector = Detector.load(bundle, name)
        assert detector.threshold == thresholds[name]
        assert detector.detect(noise(1)[0])[0] == before[name]
        assert detector.metadata.precisions[name].validation.false_alarm_rate == 0.5
        graph = openvino.Core().read_model(bundle / graph_file(name))
        assert float(graph.get_rt_info(["model_info", "image_threshold"]).value) == thresholds[name]
    assert read_metadata(bundle).threshold_source == "by hand"


def test_a_bundle_keeps_its_thresholds_if_setting_others_is_interrupted(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / SIGNATURE).write_bytes(b"signed")
    before = content_of(bundle)
    scores = {name: np.array([0.0, 9.0]) for name in PRECISIONS}
    real = export.write_described
    written: list[str] = []

    def killed(source: Path, target: Path, threshold: float) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(target.name)
        real(source, target, threshold)

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_described", killed)
        with pytest.raises(KeyboardInterrupt):
            set_thresholds(bundle, dict.fromkeys(PRECISIONS, 0.5), "by hand", scores)
    assert content_of(bundle) == before
    set_thresholds(bundle, dict.fromkeys(PRECISIONS, 0.5), "by hand", scores)
    assert set(content_of(bundle)) == set(before) - {SIGNATURE}, "it signed other thresholds"


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_scores_of_a_covariance_fitted_to_the_images_become_those_of_new_images() -> None:
    fitted, new = Scores([1.0, 2.0], ["a", "b"], [5.0]), Scores([1.5, 2.25], ["a", "b"], [5.125])
    exported = Scores([1.0, 2.5], ["a", "b"], [5.0])
    found = as_of_new_images(exported, Calibration(2.3, 0.5, {}, new, fitted, UNUSED))
    assert found == Scores([1.5, 2.75], ["a", "b"], [5.125])


def test_a_trained_detector_gets_its_files_and_every_precisions_scores(
    model: EfficientAD, tmp_path: Path
) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    colours = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    images = CalibrationImages(colours[:3], ["a", "a", "b"], colours[2:], ["a", "b"], wholes=[0, 0, 1])
    of_tiles = [infer(model, image)[0] for image in images.normals]
    of_defects = [infer(model, image)[0] for image in images.defects]
    known = Scores([max(of_tiles[:2]), of_tiles[2]], ["a", "b"], of_defects)
    calibration = Calibration(0.0, 0.5, {}, known, known, UNUSED)
    config = DetectorConfig("S", True, SIZE, sorted(of_tiles)[1], 0.5, "made up", tiles=32, channels=3)
    cameras = [np.tile(colours[k], (1, 2, 1)) for k in range(2)]
    unseen = InspectionImages(
        [partial(InspectionImage, image, None, GOOD, "s", "n") for image in cameras], [GOOD] * 2
    )
    export_beside(
        tmp_path, model, config, calibration, images, colours, unseen, seed=0, real_golden_frames=False
    )
    assert list((tmp_path / "openvino/golden").glob("*_real.png")) == []
    scores = read_scores(tmp_path)
    assert set(scores) == {TRAINED, *PRECISIONS}
    assert scores["fp32"].normals == pytest.approx(known.normals, rel=1e-3)
    assert (len(scores["int8"].defects), scores["int8"].scenes) == (2, ["a", "b"])
    detector = Detector.load(tmp_path / "openvino", "fp32")
    assert detector.threshold == pytest.approx(config.threshold, rel=1e-3)
    large = np.tile(colours[0], (1, 2, 1))
    assert (detector.tiles, detector.channels) == (32, 3)
    assert detector.predict(large).score == pytest.approx(detector.predict_tiles(large, 32).score, abs=1e-6)
    assert [one.score for one in detector.stream([large])] == [detector.predict(large).score]
    assert detector.predict(large).score != pytest.approx(detector.detect(large)[0], abs=1e-3)
    assert (tmp_path / "openvino" / ONNX).is_file()
    assert detector.metadata.lineage == Lineage(
        model_sha256=hashlib.sha256(b"weights").hexdigest(),
        data_sha256=data_sha256(colours, images),
        git_commit=code_commit(),
    )
    for precision in PRECISIONS:  # drift is watched for a detector that `metaldefect train` wrote, too
        rows = read_reference(tmp_path / "openvino", precision)
        grey = [np.asarray(Image.fromarray(image).convert("L")) for image in cameras]
        assert rows["grey_std"].tolist() == pytest.approx([image.std() for image in grey], rel=1e-6)
    whole = [detector.predict(image).score for image in cameras]
    assert read_reference(tmp_path / "openvino", "fp32")["score"].tolist() == pytest.approx(whole, abs=1e-5)


def test_the_hash_of_the_data_changes_with_every_image() -> None:
    other = noise(3)
    other[2, 5, 7] ^= 1

    def digest(train: np.ndarray, normals: np.ndarray, defects: np.ndarray) -> str:
        return data_sha256(train, CalibrationImages(normals, ["a"] * 3, defects, ["a"] * 3))

    same = [noise(3)] * 3
    found = {
        digest(*same),
        digest(other, *same[1:]),
        digest(same[0], other, same[2]),
        digest(*same[1:], other),
    }
    assert len(found) == 4
    assert digest(*[noise(3) for _ in range(3)]) in found


def test_the_commit_is_that_of_the_code(tmp_path: Path) -> None:
    package, installed = tmp_path / "package", tmp_path / "installed"
    for folder in (package, installed):
        folder.mkdir()
        (folder / "module.py").write_text("one = 1\n")

    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert code_commit(package) is None, "no repository"
    git("init", "--quiet")
    git("add", "package/module.py")
    assert code_commit(package) is None, "nothing committed"
    git("commit", "--quiet", "--message", "one")
    head = git("rev-parse", "HEAD")
    assert code_commit(package) == head
    assert code_commit(installed) is None, "this repository has no such files"
    (package / "module.py").write_text("one = 2\n")
    assert code_commit(package) == f"{head}-dirty"


def test_int8_does_not_cut_off_what_few_calibration_images_show(exported: Path, tmp_path: Path) -> None:
    strong = noise(1)[..., None]
    faint = (118 + strong // 16).astype(np.uint8).repeat(11, axis=0)
    export_openvino(exported / ONNX, tmp_path, [*faint, *strong])
    fp32, int8 = (CompiledGraph(tmp_path / graph_file(p), p).score(strong[0])[0] for p in ("fp32", "int8"))
    assert 0.8 * fp32 < int8 < 2 * fp32  # untrained, its INT8 is coarse, but not cut off


def test_two_exports_are_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    frames = [*noise(2)[..., None]]
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        export_openvino(exported / "model.onnx", tmp_path / name, frames)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_a_quarter_of_the_calibration_images_shows_an_anomaly() -> None:
    normal = np.full((8, SIZE, SIZE), 120, np.uint8)
    painted = with_painted_anomalies(normal, 0)
    changed = [not np.array_equal(*pair) for pair in zip(normal, painted, strict=True)]
    assert changed == [True, False, False, False] * 2
    np.testing.assert_array_equal(painted, with_painted_anomalies(normal, 0))


def test_latency_of_an_export(exported: Path) -> None:
    result = measure_latency(Detector.load(exported, "int8", self_test=False), noise(), 4)
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["frames_per_s"] == pytest.approx(1000 / result["p50_ms"])


def scored(label: str, score: float) -> Scored:
    empty = np.zeros((1, 1), np.uint8)
    return Scored(empty, empty > 0, label, "", "", score, empty.astype(np.float32))


def test_what_a_precision_costs_against_fp32() -> None:
    fp32 = [scored("good", 0.1), scored("good", 0.2), scored("dent", 0.6), scored("scratch", 0.4)]
    int8 = [scored("good", 0.1), scored("good", 0.5), scored("dent", 0.7), scored("scratch", 0.4)]
    # INT8 ranks one of the two good images above the scratch: three of four pairs are right
    assert against_fp32(int8, 0.45, fp32, 0.3) == {
        "changed_decisions": 0.5,
        "auroc_drop": 0.25,
        "by_type": {
            "dent": {"changed_decisions": 0.0, "auroc_drop": 0.0},
            "scratch": {"changed_decisions": 1.0, "auroc_drop": 0.5},
        },
    }
    accuracy = precision_accuracy(int8, 0.45)
    assert accuracy["image_auroc"] == 0.75
    assert accuracy["detection_rate"] == {"dent": 1.0, "scratch": 0.0}


def test_overlay_leaves_normal_pixels_alone() -> None:
    image = np.full((4, 4), 100, np.uint8)
    anomaly_map = np.zeros((4, 4), np.float32)
    anomaly_map[0, 0] = 0.4
    picture = overlay(image, anomaly_map, threshold=0.2)
    assert picture.shape == (4, 4, 3)
    assert (picture[1:] == 100).all()
    # inferno's brightest colour (252, 255, 164) at 55 % over grey 100
    assert picture[0, 0].tolist() == [184, 185, 135]
