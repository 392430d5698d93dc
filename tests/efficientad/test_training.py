from pathlib import Path

import numpy as np
import pytest
import torch

from metaldefect.artifacts import read_json, write_json
from metaldefect.efficientad import lightning_model
from metaldefect.efficientad.calibration import fit_map_quantiles
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.evaluation import score_test_images
from metaldefect.efficientad.lightning_model import training_losses
from metaldefect.efficientad.model_files import DetectorConfig, load_detector, save_detector
from metaldefect.efficientad.torch_model import FEATURES, EfficientAD, PatchDescriptionNetwork, infer
from metaldefect.efficientad.training import Trained, train
from metaldefect.efficientad.training_data import (
    Batch,
    TeacherFeatures,
    TrainingBatches,
    TrainingImages,
    augment,
    sample_order,
    teacher_content,
)
from metaldefect.errors import UserError
from metaldefect.inspection.provider import InspectionImage
from metaldefect.kernels import winograd
from metaldefect.kernels.switch import cpu_kernels
from metaldefect.training.resume import content_digest
from metaldefect.training.trainer import LAST

CONFIG = TrainingConfig(steps=4, checkpoint_steps=2, seed=3)


def images() -> TrainingImages:
    rng = np.random.default_rng(0)
    return TrainingImages(
        rng.integers(0, 256, (3, 128, 128), dtype=np.uint8),
        rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8),
        "noise",
    )


def validation() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, 128, 128), dtype=np.uint8)


def teacher() -> PatchDescriptionNetwork:
    torch.manual_seed(5)
    return PatchDescriptionNetwork("S").requires_grad_(False).eval()


def run(work: Path) -> Trained:
    return train(teacher(), images(), CONFIG, work)


def test_training_killed_in_an_epoch_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    original = lightning_model.training_losses
    calls = []

    def killed(
        model: EfficientAD, batch: Batch, quantile: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError("killed")
        return original(model, batch, quantile)

    monkeypatch.setattr(lightning_model, "training_losses", killed)
    with pytest.raises(MemoryError):
        run(tmp_path / "stopped")
    monkeypatch.setattr(lightning_model, "training_losses", original)
    assert (tmp_path / "stopped" / LAST).is_file()
    resumed = run(tmp_path / "stopped")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    assert resumed.history == whole.history


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("quantile", [0.999, 0.9])
def test_losses_are_those_of_the_plain_formulation(quantile: float, kernels: bool) -> None:
    torch.manual_seed(0)
    model = EfficientAD("S").eval()
    model.teacher_mean.fill_(0.1)
    model.teacher_std.fill_(0.5)
    normal, augmented, penalty = (torch.rand(2, 3, 128, 128) for _ in range(3))
    augmented[1] = normal[1]  # as the saturation of a grey image leaves it
    with torch.inference_mode():
        features = model.normalised_teacher(normal)
        with cpu_kernels(model, kernels):
            total, parts = training_losses(model, Batch(normal, augmented, penalty, features), quantile)
        student = model.student(normal).numpy()[:, :FEATURES]
        distance = (features.numpy() - student) ** 2
        hard = [image[image >= np.quantile(image, quantile)].mean() for image in distance]
        target = ((model.teacher(augmented) - 0.1) / 0.5).numpy()
        reconstruction = model.autoencoder(augmented).numpy()
        expected = {
            "hard": np.mean(hard),
            "penalty": (model.student(penalty).numpy()[:, :FEATURES] ** 2).mean(),
            "autoencoder": ((target - reconstruction) ** 2).mean(),
            "imitation": ((reconstruction - model.student(augmented).numpy()[:, FEATURES:]) ** 2).mean(),
        }
    assert list(parts) == list(expected)
    for name, value in expected.items():
        assert float(parts[name]) == pytest.approx(float(value), rel=1e-4), name
    assert float(total) == pytest.approx(float(sum(expected.values())), rel=1e-4)


def test_cached_features_are_the_teachers_and_bounded(tmp_path: Path) -> None:
    data = images().normal
    one_image = 2 * 384 * 32 * 32
    features = TeacherFeatures(teacher(), data, tmp_path / "features.npy", max_bytes=2 * one_image)
    assert features.cached == 2
    raw = teacher()(lightning_images(data))
    expected = (raw - raw.mean(dim=(0, 2, 3), keepdim=True)) / raw.std(
        dim=(0, 2, 3), keepdim=True, correction=0
    )
    for index in range(3):
        # Half precision is good to a thousandth of a standard deviation here.
        torch.testing.assert_close(features[[index]][0], expected[index], atol=0.02, rtol=0)


def test_cached_features_are_taken_up_for_the_same_teacher_and_images_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = tmp_path / "features.npy", images().normal
    first = TeacherFeatures(teacher(), data, path)
    monkeypatch.setattr(TeacherFeatures, "_compute", lambda *_: pytest.fail("computed again"))
    second = TeacherFeatures(teacher(), data, path)
    assert torch.equal(first[[0, 2]], second[[0, 2]])
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        TeacherFeatures(teacher(), data[::-1], path)


def test_the_saturation_of_grey_images_changes_nothing() -> None:
    grey = torch.rand(1, 1, 8, 8).expand(-1, 3, -1, -1)
    results = [augment(grey, np.random.default_rng(seed)) for seed in range(20)]
    unchanged = [torch.equal(result, grey) for result in results]
    assert 1 < sum(unchanged) < 15
    assert not torch.equal(
        augment(torch.rand(1, 3, 8, 8), np.random.default_rng(unchanged.index(True))), grey
    )


def lightning_images(data: np.ndarray) -> torch.Tensor:
    unit = torch.from_numpy(data).float()[:, None].expand(-1, 3, -1, -1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (unit - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def test_every_pass_shows_every_image_once() -> None:
    order = sample_order(5, seed=1, start=0, length=15)
    assert [sorted(order[i : i + 5]) for i in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert order[:5] != order[5:10]
    assert sample_order(5, seed=1, start=7, length=4) == order[7:11]


def test_a_step_does_not_depend_on_the_steps_before_it(tmp_path: Path) -> None:
    features = TeacherFeatures(teacher(), images().normal, tmp_path / "features.npy")
    late, early = (TrainingBatches(images(), features, 2, 9) for _ in range(2))
    late.batch(0)
    first, second = early.batch(3), late.batch(3)
    assert first.penalty is not None
    assert second.penalty is not None
    assert torch.equal(first.augmented, second.augmented)
    assert torch.equal(first.penalty, second.penalty)
    assert torch.equal(first.features, second.features)
    assert not torch.equal(first.images, first.augmented)


def test_map_quantiles_are_those_of_the_pixels_at_image_size() -> None:
    torch.manual_seed(0)
    model = EfficientAD("S").eval()
    fit_map_quantiles(model, validation())
    # With them the pooled pixels of each map have q_0.9 at 0 and q_0.995 at 0.1.
    rows = []
    for image in validation():
        raw = model.raw_maps(lightning_images(image[None]))
        rows.append(
            [torch.nn.functional.interpolate(m, (128, 128), mode="bilinear").detach().numpy() for m in raw]
        )
    for branch in range(2):
        pixels = np.concatenate([row[branch].ravel() for row in rows])
        low, high = np.quantile(pixels, [0.9, 0.995])
        np.testing.assert_allclose(model.quantiles[branch].numpy(), [low, high], rtol=1e-5)


def test_many_images_are_scored_with_the_cpu_kernels_to_the_same_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = EfficientAD("S").eval()
    with torch.no_grad():  # a student far from its teacher, whose scores have a scale
        for parameter in model.parameters():
            parameter.mul_(2)
    fit_map_quantiles(model, validation())
    direct = np.array([infer(model, image)[0] for image in validation()])
    taken = []
    original = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *given: taken.append(1) or original(*given))
    items = [InspectionImage(image, None, "good", "", "") for image in validation()]
    scored = score_test_images(model, items, 128, "score")
    np.testing.assert_allclose([item.score for item in scored], direct, rtol=1e-3)
    assert len(taken) == 6 * len(items), "three convolutions each of teacher and student"
    assert not model.student.cpu_kernel


def test_training_on_the_cpu_uses_the_kernels_and_leaves_the_plain_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, used = lightning_model.training_losses, []

    def watched(model: EfficientAD, *rest: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        used.append(model.student.cpu_kernel)
        return original(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(lightning_model, "training_losses", watched)
    trained = run(tmp_path)
    assert used == [True] * CONFIG.steps
    assert not trained.model.student.cpu_kernel


def test_saved_detector_gives_the_same_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = EfficientAD("S", padding=False).eval()
    save_detector(tmp_path, model, DetectorConfig("S", False, 128, 0.25, 0.9, "made up"), {"steps": 1})
    loaded, config = load_detector(tmp_path)
    assert config.threshold == 0.25
    assert infer(loaded, validation()[0])[0] == infer(model, validation()[0])[0]


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_a_detector_pools_as_its_teacher_also_after_loading(tmp_path: Path, count_include_pad: bool) -> None:
    torch.manual_seed(0)
    frozen = PatchDescriptionNetwork("S", count_include_pad=count_include_pad).requires_grad_(False).eval()
    few = CONFIG.model_copy(update={"steps": 1, "checkpoint_steps": 1})
    trained = train(frozen, images(), few, tmp_path / "work").model.eval()
    config = DetectorConfig("S", True, 128, 0.25, 0.9, "", count_include_pad=count_include_pad)
    save_detector(tmp_path, trained, config, {})
    loaded, found = load_detector(tmp_path)
    assert found.count_include_pad is count_include_pad
    for network in (trained.teacher, trained.student, loaded.teacher, loaded.student):
        assert network.pool.count_include_pad is count_include_pad
    assert infer(loaded, validation()[0])[0] == pytest.approx(infer(trained, validation()[0])[0], rel=1e-4)


def test_cached_features_are_of_one_pooling() -> None:
    networks = [PatchDescriptionNetwork("S", count_include_pad=counts) for counts in (True, False)]
    networks[1].load_state_dict(networks[0].state_dict())
    keys = {content_digest(teacher_content(network)) for network in networks}
    assert len(keys) == 2


def test_a_configuration_of_other_networks_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the networks have count_include_pad = False, .* says True"):
        save_detector(
            tmp_path,
            EfficientAD("S", count_include_pad=False),
            DetectorConfig("S", True, 128, 0.1, 0.9, ""),
            {},
        )


def test_weights_of_another_size_are_named(tmp_path: Path) -> None:
    save_detector(tmp_path, EfficientAD("S"), DetectorConfig("S", True, 128, 0.1, 0.9, ""), {})
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | {"size": "M"})
    with pytest.raises(UserError, match=r"model\.safetensors does not hold a detector of size M"):
        load_detector(tmp_path)


def test_weights_of_another_detector_are_noticed(tmp_path: Path) -> None:
    config = DetectorConfig("S", True, 128, 0.1, 0.9, "")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_detector(tmp_path / name, EfficientAD("S"), config, {})
    (tmp_path / "a/model.safetensors").rename(tmp_path / "b/model.safetensors")
    with pytest.raises(UserError, match=r"b/model\.safetensors has SHA-256 \w+, its card says"):
        load_detector(tmp_path / "b")
