"""A tokenizer of grey images, widened to colour.

The grey network reads three equal channels and writes their mean. Its input weights are divided evenly over
the channels and its output is repeated, so the widened network sees the mean of a colour image and gives a
grey one back as before. What the mean leaves out is a patch's hue: two numbers, in which the three channels
differ. They are two more coordinates of every entry. The codes of the grey model have no hue and keep their
numbers, so that a MaskGIT that draws with them still understands them; half as many codes are added for the
hues of the user's images.

The light of an image (`VQModel.field`) has colours too, and is subtracted first. So metal that is brown
everywhere needs no code of another hue; a red blotch on it does.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping

import torch
import torch.nn.functional as F
from torch import Tensor

from metaldefect.images import U8, to_tanh_range
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import KMEANS_BATCH, RIDGE, patch_path_of, spherical_kmeans

# Directions in RGB, of length 1, at right angles to grey and to each other
HUES = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / torch.tensor([[math.sqrt(2.0)], [math.sqrt(6.0)]])
# Of a patch's mean hue beside its unit vector of grey: a wrong hue is seen before a wrong texture
HUE_WEIGHT = 4.0
FAINTEST_HUE = 0.2  # length of the hue coordinates up to which a patch counts as grey: about 4 levels
Weights = MutableMapping[str, Tensor]


@torch.no_grad()
def colour_model(model: VQModel, images: U8, seed: int = 0) -> VQModel:
    """The tokenizer in colour: a grey one widened, with codes for the hues of these images.

    Args:
        model: reads grey images, or already colour: then it is returned as it is.
        images: `uint8 [N, H, W, 3]` of the training.
        seed: of k-means.
    """
    if model.config.image_channels == 3:
        return model
    wide = widen(model)
    if wide.config.hue_codes:
        fit_hues(wide, images, seed)
    return wide


@torch.no_grad()
def widen(grey: VQModel) -> VQModel:
    """A tokenizer with three channels that reconstructs grey images as `grey` does, up to rounding.

    Its codes for hues start as a wheel of colours around the grey codes.
    """
    config = grey.config.in_colour()
    model = VQModel(config).to(next(grey.parameters()).device)
    state: Weights = {name: value.clone() for name, value in grey.state_dict().items()}
    share_input(state, "encoder.conv_in.weight")
    repeat_output(state, "decoder.conv_out", 3)
    if grey.patch_path is not None:
        share_input(state, "patch_path.inwards.weight")
        repeat_output(state, "patch_path.outwards", 3)
        add_hues(state, config)
    model.load_state_dict(state)
    return model.train(grey.training)


def share_input(state: Weights, name: str) -> None:
    """Give every input channel the mean of the three channels' weights, `[out, 3 * n, h, w]`."""
    weight = state[name]
    parts = weight.unflatten(1, (3, -1))
    state[name] = parts.mean(dim=1, keepdim=True).expand_as(parts).reshape(weight.shape)


def repeat_output(state: Weights, name: str, channels: int) -> None:
    """Give every output channel the mean of the channels' weights and biases, `[channels * n, ...]`."""
    for key in (f"{name}.weight", f"{name}.bias"):
        parts = state[key].unflatten(0, (channels, -1))
        state[key] = parts.mean(dim=0, keepdim=True).expand_as(parts).reshape(state[key].shape)


def add_hues(state: Weights, config: VQConfig) -> None:
    """Add the coordinates of hue to the weights of a grey patch path, and the codes that use them."""
    hues = HUES.to(state["quant_conv.weight"])
    side, count = config.downsampling, config.hue_dim
    mean = hues[:, :, None, None].expand(count, 3, side, side) * HUE_WEIGHT / side**2
    state["patch_path.inwards.weight"] = torch.cat([state["patch_path.inwards.weight"], mean])
    for name in ("patch_path.inwards.bias", "quant_conv.weight", "quant_conv.bias"):
        none = state[name].new_zeros(count, *state[name].shape[1:])
        state[name] = torch.cat([state[name], none])
    inwards = state["post_quant_conv.weight"]
    state["post_quant_conv.weight"] = torch.cat(
        [inwards, inwards.new_zeros(len(inwards), count, 1, 1)], dim=1
    )
    # Pixels take the hue between the centres of cells, as in a linear interpolation
    between = interpolation(side).to(hues)  # [3, side]
    taps = torch.einsum("iy,jx->yxij", between, between).reshape(side**2, 3, 3)
    outwards = torch.einsum("hc,pij->cphij", hues, taps).reshape(3 * side**2, count, 3, 3) / HUE_WEIGHT
    state["patch_path.outwards.weight"] = torch.cat([state["patch_path.outwards.weight"], outwards], dim=1)
    entries = state["quantize.embedding.weight"]
    chosen = torch.arange(config.hue_codes) % len(entries)
    angles = 2 * math.pi * torch.arange(config.hue_codes) / config.hue_codes
    wheel = torch.stack([angles.cos(), angles.sin()], dim=1).to(entries)
    state["quantize.embedding.weight"] = torch.cat(
        [
            torch.cat([entries, entries.new_zeros(len(entries), count)], dim=1),
            torch.cat([F.normalize(entries[chosen], dim=1), wheel], dim=1),
        ]
    )


def interpolation(side: int) -> Tensor:
    """Shares of the previous, the own and the next cell in each of a cell's pixels, `float32 [3, side]`."""
    place = (torch.arange(side) + 0.5) / side - 0.5
    return torch.stack([(-place).clamp(min=0), 1 - place.abs(), place.clamp(min=0)])


def fit_hues(model: VQModel, images: U8, seed: int) -> None:
    """Fit the codes for hues, and their way back to pixels, to colour images `uint8 [N, H, W, 3]`.

    K-means of patches, drawn the more often the more their hue differs from the light; then least squares.
    Nothing changes if the images are grey.
    """
    config = model.config
    parts = [images[start : start + 8] for start in range(0, len(images), 8)]
    model.eval()
    vectors = torch.cat([unit_features(model, part).flatten(0, 2) for part in parts])
    strength = vectors[:, -config.hue_dim :].norm(dim=1)
    strength = torch.where(strength > FAINTEST_HUE, strength, 0.0)
    if not strength.any():
        return
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(strength, KMEANS_BATCH, replacement=True, generator=generator)
    centres = spherical_kmeans(vectors[chosen], config.hue_codes, generator, config.hue_dim)
    model.quantize.embedding.weight[-config.hue_codes :] = centres
    fit_hue_pixels(model, parts)


def unit_features(model: VQModel, images: U8) -> Tensor:
    """Encoder outputs as the quantizer compares them, `float [N, h, w, D]`."""
    return model.quantize.on_sphere(model.features(to_tanh_range(images)).float().permute(0, 2, 3, 1))


def fit_hue_pixels(model: VQModel, parts: list[U8]) -> None:
    """Fit the way from the hues of 3x3 cells to a patch's pixels to what is missing without it."""
    layer, hue = patch_path_of(model).outwards, model.config.hue_dim
    side = model.config.downsampling
    layer.weight[:, -hue:] = 0
    features = 9 * hue
    gram, cross = torch.zeros(features, features), torch.zeros(features, 3 * side**2)
    for part in parts:
        images = to_tanh_range(part)
        z = model.quantize.lookup(model.encode(images))
        decoded = model.decoder(model.post_quant_conv(z)) + patch_path_of(model).decode(z)
        missing = F.pixel_unshuffle(model.encoder_input(images) - decoded, side)
        x = F.unfold(z[:, -hue:], 3, padding=1).transpose(1, 2).flatten(0, 1)
        y = missing.flatten(2).transpose(1, 2).flatten(0, 1)
        gram += x.t() @ x
        cross += x.t() @ y
    ridge = RIDGE * gram.trace() * torch.eye(features)
    solution = torch.linalg.solve((gram + ridge).double(), cross.double()).float()
    layer.weight[:, -hue:] = solution.t().reshape(3 * side**2, hue, 3, 3)


def grey_codes_alike(model: VQModel) -> Tensor:
    """For each code the one of the grey model that is most like it, `int64 [codes]`; grey ones are their own.

    A MaskGIT that knows only those starts from what it knows of them.
    """
    entries = model.quantize.codebook.detach().cpu()
    kept = len(entries) - model.config.hue_codes
    grey = entries[:, : model.config.codebook_dim - model.config.hue_dim]
    found = torch.arange(len(entries))
    found[kept:] = (grey[kept:] @ grey[:kept].t()).argmax(dim=1)
    return found
