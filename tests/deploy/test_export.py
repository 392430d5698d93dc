import copy
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch

from metaldefect.artifacts import read_json, sha256_file
from metaldefect.deploy.calibration import choose_threshold, with_painted_anomalies
from metaldefect.deploy.export import ONNX, PRECISIONS, export_onnx, export_openvino, parity, write_metadata
from metaldefect.deploy.graph import INPUT, InspectionGraph, fold_teacher_constants
from metaldefect.deploy.latency import measure_latency
from metaldefect.deploy.runtime import Detector, overlay
from metaldefect.efficientad.anomaly_map import map_to_size
from metaldefect.efficientad.calibration import fit_map_quantiles
from metaldefect.efficientad.evaluation import infer
from metaldefect.efficientad.model_files import DetectorConfig
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.errors import UserError
from metaldefect.images import resize

SIZE = 128


def frames(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> EfficientAD:
    torch.manual_seed(0)
    model = EfficientAD("S").eval()
    model.teacher_mean.copy_(0.01 * torch.randn(1, 384, 1, 1))
    model.teacher_std.copy_(0.02 + 0.02 * torch.rand(1, 384, 1, 1))
    fit_map_quantiles(model, frames())
    model.map_weights.copy_(torch.tensor([0.75, 0.25]))  # not the paper's, to see that they are exported
    return model


@pytest.fixture(scope="module")
def exported(model: EfficientAD, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino")
    export_onnx(InspectionGraph(model), SIZE, folder / ONNX)
    export_openvino(folder / ONNX, folder, frames(4))
    config = DetectorConfig("S", True, SIZE, 0.1, 0.99, "made up")
    write_metadata(folder, config, {"fp32": 0.1, "fp16": 0.11, "int8": 0.12})
    return folder


def test_folded_teacher_gives_normalised_features(model: EfficientAD) -> None:
    images = torch.rand(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = model.normalised_teacher(images)
        torch.testing.assert_close(
            fold_teacher_constants(model).teacher(images), expected, atol=1e-4, rtol=1e-4
        )


def test_onnx_and_fp32_compute_what_torch_computes(model: EfficientAD, exported: Path) -> None:
    errors = parity(InspectionGraph(model), exported, frames(2))
    assert set(errors) == {"onnx_map", "onnx_score", "fp32_map", "fp32_score", "max_abs_error"}
    assert 0 <= errors["max_abs_error"] < 1e-4


def test_the_other_border_pooling_is_exported_as_the_teacher_has_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = InspectionGraph(EfficientAD("S", count_include_pad=False).eval())
    export_onnx(graph, SIZE, tmp_path / ONNX)
    frame = frames(1)[:, :, :, None]
    with torch.inference_mode():
        expected = graph(torch.from_numpy(frame))[0].numpy()
    session = onnxruntime.InferenceSession(tmp_path / ONNX, providers=["CPUExecutionProvider"])
    fp32 = openvino.Core().compile_model(tmp_path / ONNX, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(session.run(["anomaly_map"], {INPUT: frame})[0], expected, atol=1e-4)
    np.testing.assert_allclose(fp32({INPUT: frame})["anomaly_map"], expected, atol=1e-4)


def test_parity_sees_another_model(exported: Path) -> None:
    torch.manual_seed(1)
    assert parity(InspectionGraph(EfficientAD("S").eval()), exported, frames(1))["max_abs_error"] > 1e-2


def test_the_runtime_scores_what_training_scored(model: EfficientAD, exported: Path) -> None:
    image = frames()[0]
    score, anomaly_map = infer(model, image)
    detection = Detector.load(exported, "fp32").infer(image)
    assert detection.score == pytest.approx(score, abs=1e-4)
    np.testing.assert_allclose(detection.anomaly_map, anomaly_map, atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.0, 1.0])
def test_parity_sees_other_map_weights(model: EfficientAD, exported: Path, share: float) -> None:
    other = copy.deepcopy(model)
    other.map_weights.copy_(torch.tensor([share, 1 - share]))
    assert parity(InspectionGraph(other), exported, frames(1))["max_abs_error"] > 1e-3


@pytest.mark.parametrize("size", [(90, 140), (300, 200), (128, 129)])
def test_training_and_runtime_give_one_map_at_the_images_size(
    model: EfficientAD, exported: Path, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    expected = map_to_size(infer(model, resize(image, SIZE))[1], size)
    found = Detector.load(exported, "fp32").infer(image).anomaly_map
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_filter_of_maps_is_bilinear_at_pixel_centres() -> None:
    ramp = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    np.testing.assert_allclose(
        map_to_size(ramp, (1, 8))[0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6
    )
    np.testing.assert_allclose(map_to_size(ramp, (1, 2))[0], [0.5, 2.5], atol=1e-6)


def test_the_threshold_of_a_precision_is_the_quantile_of_its_own_scores(exported: Path) -> None:
    detector = Detector.load(exported, "int8")
    scores = [detector.detect(frame)[0] for frame in frames(3)]
    assert choose_threshold(exported, "int8", frames(3), 0.5) == pytest.approx(sorted(scores)[1])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_judges_images_of_any_size(exported: Path, precision: str) -> None:
    detector = Detector.load(exported, precision)
    detection = detector.infer(np.full((90, 140), 100, np.uint8))
    assert detection.anomaly_map.shape == (90, 140)
    assert detection.anomaly_map.dtype == np.float32
    assert detection.is_anomalous == (detection.score > detector.threshold)


def test_files_are_whole_and_described(exported: Path) -> None:
    metadata = read_json(exported / "metadata.json")
    assert metadata["image_size"] == 128
    assert metadata["thresholds"] == {"fp32": 0.1, "fp16": 0.11, "int8": 0.12}
    assert metadata["model"] == "EfficientAD-S"
    assert {name: sha256_file(exported / name) for name in metadata["sha256"]} == metadata["sha256"]
    assert not list(exported.glob("*.data"))
    sizes = {p: (exported / f"detector_{p}.bin").stat().st_size for p in PRECISIONS}
    assert sizes["int8"] < 0.3 * sizes["fp32"]
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert str(Path(__file__).parents[2]).encode() not in (exported / ONNX).read_bytes()


def test_int8_does_not_cut_off_what_few_calibration_images_show(exported: Path, tmp_path: Path) -> None:
    strong = frames(1)
    faint = (118 + strong // 16).astype(np.uint8).repeat(11, axis=0)
    shutil.copyfile(exported / ONNX, tmp_path / ONNX)
    export_openvino(tmp_path / ONNX, tmp_path, np.concatenate([faint, strong]))
    write_metadata(tmp_path, DetectorConfig("S", True, SIZE, 0.1, 0.99, ""), dict.fromkeys(PRECISIONS, 0.1))
    scores = {p: Detector.load(tmp_path, p).infer(strong[0]).score for p in ("fp32", "int8")}
    assert scores["int8"] == pytest.approx(scores["fp32"], rel=0.2)


def test_a_quarter_of_the_calibration_images_shows_an_anomaly() -> None:
    normal = np.full((8, SIZE, SIZE), 120, np.uint8)
    painted = with_painted_anomalies(normal, 0)
    changed = [not np.array_equal(*pair) for pair in zip(normal, painted, strict=True)]
    assert changed == [True, False, False, False] * 2
    np.testing.assert_array_equal(painted, with_painted_anomalies(normal, 0))


def test_latency_of_an_export(exported: Path) -> None:
    result = measure_latency(Detector.load(exported, "int8"), frames(), 4)
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["frames_per_s"] == pytest.approx(1000 / result["p50_ms"])


def test_overlay_leaves_normal_pixels_alone() -> None:
    image = np.full((4, 4), 100, np.uint8)
    anomaly_map = np.zeros((4, 4), np.float32)
    anomaly_map[0, 0] = 0.4
    picture = overlay(image, anomaly_map, threshold=0.2)
    assert picture.shape == (4, 4, 3)
    assert (picture[1:] == 100).all()
    # inferno's brightest colour (252, 255, 164) at 55 % over grey 100
    assert picture[0, 0].tolist() == [184, 185, 135]


def test_errors_name_the_file_and_the_value(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="precision 'int4': expected one of fp32, fp16, int8"):
        Detector.load(exported, "int4")
    with pytest.raises(UserError, match=r"metadata\.json does not exist"):
        Detector.load(tmp_path)
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W\], got float64 \[3, 3\]"):
        Detector.load(exported).infer(np.zeros((3, 3)))
