"""LPIPS where its weights are available; elsewhere a named alternative with a warning."""

import importlib
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.perceptual_scale import DISTORTIONS, distort_all, draw_images, measure
from metaldefect.errors import UserError
from metaldefect.tokenizer import perceptual
from metaldefect.tokenizer.perceptual import FeatureDistance, metric_name, perceptual_loss

WEIGHTS = Path(__file__).resolve().parents[2] / "../shared/weights"


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    # Its first import takes a copy of torch.hub's loader, which must not be a test's replacement
    importlib.import_module("torchvision")
    monkeypatch.delenv("METALDEFECT_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_without_a_connection_it_warns_and_names_the_alternative(empty_cache, monkeypatch) -> None:
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.warns(UserWarning, match=r"'vgg' cannot be had .*no route.*vgg16-397923af.pth"):
        module, name = perceptual_loss("vgg")
    assert name == "efficientnet_lite0"
    assert isinstance(module, FeatureDistance)


def test_a_stand_in_never_goes_by_the_name_of_lpips() -> None:
    assert {metric_name(f"lpips-{net}") for net in perceptual.HUB_FILES} == {"lpips"}
    assert metric_name(perceptual_loss("efficientnet_lite0")[1]) == "efficientnet_lite0_distance"


# Mean of LPIPS 0.1 (the package `lpips`, net "squeeze") over the four pairs of each distortion
LPIPS_SQUEEZE = {
    "blur, radius 2": 0.2149,
    "blocks of 8": 0.3513,
    "JPEG, quality 10": 0.3612,
    "noise of 5 grey levels": 0.2330,
}


@pytest.fixture(scope="module")
def metal() -> np.ndarray:
    """Crazing, scratches, a plate defect and good metal, procedural."""
    return draw_images(1)[[0, 5, 8, -1]]


@pytest.mark.parametrize("distortion", LPIPS_SQUEEZE)
def test_the_stand_in_is_on_the_scale_of_lpips(distortion: str, metal: np.ndarray) -> None:
    spoilt = distort_all(DISTORTIONS[distortion], metal)
    found = float(measure(perceptual_loss("efficientnet_lite0")[0], metal, spoilt).mean())
    assert 0.5 < found / LPIPS_SQUEEZE[distortion] < 2.0


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="no LPIPS backbone weights in ../shared/weights")
def test_the_recorded_lpips_are_those_of_the_package(empty_cache, monkeypatch, metal: np.ndarray) -> None:
    monkeypatch.setenv("METALDEFECT_WEIGHTS", str(WEIGHTS))
    network = perceptual_loss("squeeze")[0]
    for distortion, recorded in LPIPS_SQUEEZE.items():
        spoilt = distort_all(DISTORTIONS[distortion], metal)
        assert float(measure(network, metal, spoilt).mean()) == pytest.approx(recorded, rel=0.01)


def test_unknown_net_is_an_error() -> None:
    with pytest.raises(UserError, match="unknown LPIPS net 'resnet'"):
        perceptual_loss("resnet")


def test_feature_distance_is_a_frozen_distance() -> None:
    module = FeatureDistance()
    module.train()
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    torch.manual_seed(0)
    a = torch.rand(2, 3, 64, 64) * 2 - 1
    assert module(a, a).tolist() == [0.0, 0.0]
    near, far = module(a + 0.02 * torch.randn_like(a), a), module(torch.zeros_like(a), a)
    assert (near > 0).all()
    assert (far > near).all()


def test_feature_distance_passes_gradients_to_the_image_alone() -> None:
    image = torch.zeros(1, 3, 64, 64, requires_grad=True)
    FeatureDistance()(image, torch.ones(1, 3, 64, 64)).sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="no LPIPS backbone weights in ../shared/weights")
def test_lpips_from_a_folder_of_weights(empty_cache, monkeypatch) -> None:
    monkeypatch.setenv("METALDEFECT_WEIGHTS", str(WEIGHTS))
    module, name = perceptual_loss("squeeze")
    assert name == "lpips-squeeze"
    assert (empty_cache / "checkpoints" / perceptual.HUB_FILES["squeeze"]).is_file()
    a = torch.zeros(1, 3, 64, 64)
    assert float(module(a, a)) == 0.0
    assert float(module(a, torch.rand(1, 3, 64, 64) * 2 - 1)) > 0.1
