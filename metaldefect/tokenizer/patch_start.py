"""A closed-form start for tokenizers with a patch path: PCA, spherical k-means, least squares.

A VQ autoencoder that starts from noise spends most of a short training on the grey level of each patch and
on getting its codebook used. Both have a closed-form solution. Project patches on their principal components
and, with a constant as last coordinate, onto the unit sphere; k-means there gives the codebook; least
squares maps the 3x3 neighbourhood of quantised vectors back to pixels. The convolutions start with zero
output, so training improves on k-means from its first step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metaldefect.errors import UserError
from metaldefect.images import U8, to_tanh_range
from metaldefect.tokenizer.model import PatchPath, VQModel
from metaldefect.tokenizer.quantizer import closeness, on_sphere

# Constant coordinate in units of the patches' root mean square norm: larger values use a flatter part of the
# sphere (2 gave a better SSIM than 1 on held-out metal)
FLATNESS = 2.0
KMEANS_ROUNDS = 40
KMEANS_BATCH = 65_536
RIDGE = 1e-6


@torch.no_grad()
def start_from_images(model: VQModel, images: U8, seed: int = 0) -> None:
    """Fit patch path and codebook to grey images, `uint8 [N, H, W]`, and zero the convolutions' output.

    Raises:
        UserError: the model has no patch path, or the images hold too few patches for the codebook.
    """
    path = patch_path_of(model)
    size, dim, side = model.config.codebook_size, model.config.codebook_dim, path.side
    grey = without_field(model, to_tanh_range(images))[:, :1]
    patches = F.unfold(grey, side, stride=side).transpose(1, 2)  # [N, patches, side^2]
    flat = patches.reshape(-1, side**2)
    if len(flat) < size:
        raise UserError(f"{len(flat)} patches cannot start {size} codes: give more images or fewer codes")
    generator = torch.Generator().manual_seed(seed)

    mean = flat.mean(dim=0)
    sample = flat[torch.randperm(len(flat), generator=generator)[:KMEANS_BATCH]] - mean
    axes = torch.linalg.eigh(sample.t() @ sample / len(sample)).eigenvectors.flip(1)[:, : dim - 1]
    constant = FLATNESS * (sample @ axes).square().sum(dim=1).mean().sqrt().clamp(min=1e-6)
    kernel = torch.zeros(dim, 1, side, side)
    kernel[:-1, 0] = (axes / constant).t().reshape(dim - 1, side, side)
    path.inwards.weight.copy_(kernel.repeat(1, 3, 1, 1) / 3.0)
    bias_of(path.inwards).copy_(torch.cat([-(mean @ axes) / constant, torch.ones(1)]))
    for layer in (model.quant_conv, model.decoder.conv_out):
        layer.weight.zero_()
        bias_of(layer).zero_()

    vectors = F.normalize(torch.cat([(flat - mean) @ axes / constant, torch.ones(len(flat), 1)], 1), dim=1)
    codebook = spherical_kmeans(vectors, size, generator)
    model.quantize.embedding.weight.copy_(codebook)

    entries = torch.cat([codebook[(part @ codebook.t()).argmax(1)] for part in vectors.split(KMEANS_BATCH)])
    fit_outwards(path.outwards, entries, patches)


@torch.no_grad()
def refit_codes(model: VQModel, images: U8, seed: int = 0) -> None:
    """Fit a trained tokenizer's codebook to other images: k-means of the encoder's outputs.

    For weights that were trained on other data, or without the field.

    Args:
        model: its convolutions stay as they are.
        images: grey `uint8 [N, H, W]`.
        seed: of k-means.
    """
    vectors = unit_features(model, images)
    generator = torch.Generator().manual_seed(seed)
    codebook = spherical_kmeans(vectors.flatten(0, 2), model.config.codebook_size, generator)
    model.quantize.embedding.weight.copy_(codebook)


@torch.no_grad()
def refit_outwards(model: VQModel, images: U8) -> None:
    """Fit the patch path's way from codes to pixels to what the decoder leaves out of images: least squares.

    Follows `refit_codes`, after which the codes mean something else.

    Args:
        model: with a patch path; its convolutions stay as they are.
        images: grey `uint8 [N, H, W]`.
    """
    path = patch_path_of(model)
    vectors = unit_features(model, images)
    entries = model.quantize.codebook[model.quantize.nearest(vectors.flatten(0, 2))]
    quantised = entries.view(vectors.shape).permute(0, 3, 1, 2)
    left = [
        model.encoder_input(part)[:, :1] - model.decoder(model.post_quant_conv(z)).mean(1, keepdim=True)
        for part, z in zip(to_tanh_range(images).split(8), quantised.split(8), strict=True)
    ]
    patches = F.unfold(torch.cat(left), path.side, stride=path.side).transpose(1, 2)
    fit_outwards(path.outwards, entries, patches)


def unit_features(model: VQModel, images: U8) -> Tensor:
    """Encoder outputs on the unit sphere, `float [N, h, w, D]`."""
    maps = [model.features(part).float() for part in to_tanh_range(images).split(8)]
    return F.normalize(torch.cat(maps).permute(0, 2, 3, 1), dim=-1)


def patch_path_of(model: VQModel) -> PatchPath:
    """The patch path; raises a UserError if the model has none."""
    if model.patch_path is None:
        raise UserError("this tokenizer has no patch path to fit: set patch_path in its config")
    return model.patch_path


def without_field(model: VQModel, images: Tensor) -> Tensor:
    """What the encoder sees of `float [N, 3, H, W]`, in parts to save memory."""
    return torch.cat([model.encoder_input(part) for part in images.split(64)])


def spherical_kmeans(vectors: Tensor, count: int, generator: torch.Generator, hue: int = 0) -> Tensor:
    """Mini-batch k-means of unit vectors by largest dot product; `float [M, D]` -> `[count, D]`, unit length.

    A centre that ends a round without vectors moves to a random vector of that round. The last `hue`
    coordinates stay outside the unit length, see `quantizer.on_sphere`.
    """
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:count]].clone()
    for _ in range(KMEANS_ROUNDS):
        chosen = torch.randint(0, len(vectors), (min(KMEANS_BATCH, len(vectors)),), generator=generator)
        batch = vectors[chosen]
        nearest = closeness(batch, centres, hue).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, batch)
        counts = torch.bincount(nearest, minlength=count)
        filled = counts > 0
        if hue:  # their mean is not normalised afterwards
            sums[:, -hue:] /= counts.clamp(min=1)[:, None]
        fresh = batch[torch.randint(0, len(batch), (count,), generator=generator)]
        centres = torch.where(filled[:, None], on_sphere(sums, hue), fresh)
    return centres


def fit_outwards(layer: torch.nn.Conv2d, entries: Tensor, patches: Tensor) -> None:
    """Fit 3x3 neighbourhoods of entries, `float [N*h*w, D]`, to patches `[N, h*w, side^2]`: least squares."""
    count, cells, pixels = patches.shape
    grid = int(cells**0.5)
    dim = entries.shape[1]
    maps = entries.view(count, grid, grid, dim).permute(0, 3, 1, 2)
    features = 9 * dim + 1
    gram, cross = torch.zeros(features, features), torch.zeros(features, pixels)
    for map_part, patch_part in zip(maps.split(64), patches.split(64), strict=True):
        x = F.unfold(map_part, 3, padding=1).transpose(1, 2).reshape(-1, features - 1)
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
        gram += x.t() @ x
        cross += x.t() @ patch_part.reshape(-1, pixels)
    solution = torch.linalg.solve(
        (gram + RIDGE * gram.trace() * torch.eye(features)).double(), cross.double()
    )
    weight, bias = solution[:-1].float(), solution[-1].float()
    # pixel_shuffle expects channel-major blocks; each of the three colour channels is the grey image
    layer.weight.copy_(weight.t().reshape(pixels, dim, 3, 3).repeat(3, 1, 1, 1))
    bias_of(layer).copy_(bias.repeat(3))


def bias_of(layer: torch.nn.Conv2d) -> Tensor:
    """The bias; all layers here have one."""
    assert layer.bias is not None
    return layer.bias
