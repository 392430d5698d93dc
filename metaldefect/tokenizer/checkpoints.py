"""Load and save tokenizers: our safetensors + JSON, and LlamaGen's checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from metaldefect.artifacts import atomic_file, check_sha256, read_json, sha256_file, write_json
from metaldefect.errors import UserError
from metaldefect.hardware import device
from metaldefect.images import Channels
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.model import VQModel

WEIGHTS = "tokenizer.safetensors"
CONFIG = "config.json"
SHIPPED = Path(__file__).parents[1] / "weights" / "vq16_small.safetensors"


def save_tokenizer(model: VQModel, directory: Path, extra: Mapping[str, object] | None = None) -> None:
    """Write `tokenizer.safetensors` and `config.json`: shape, SHA-256 of the weights, `extra`."""
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / WEIGHTS) as temporary:
        safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
    own = {"tokenizer": model.config.model_dump(mode="json"), "sha256": sha256_file(directory / WEIGHTS)}
    write_json(directory / CONFIG, {**own, **(extra or {})})


def load_tokenizer(directory: Path) -> VQModel:
    """Load what `save_tokenizer` wrote, in eval mode on `device()`.

    Raises:
        UserError: the directory holds no tokenizer; the weights' SHA-256 differs from `config.json`; or keys
            are missing, unexpected or of the wrong shape; the message names them.
    """
    model = VQModel(read_shape(directory / CONFIG))
    load_strict(model, read_weights(directory / WEIGHTS, directory / CONFIG), str(directory / WEIGHTS))
    return model.eval().to(device())


def read_shape(card: Path) -> VQConfig:
    """The shape of the tokenizer that a JSON file describes.

    Files from before `entropy_ratio` became a setting of the training alone also have that key, which never
    changed a network.

    Raises:
        UserError: the file is missing or says nothing about a tokenizer, or a key or value is wrong.
    """
    content = read_key(card, "tokenizer")
    return VQConfig.parse({key: value for key, value in content.items() if key != "entropy_ratio"}, str(card))


def read_key(path: Path, key: str) -> Any:
    """Return the value of one key of a JSON file.

    Raises:
        UserError: the file does not exist or lacks the key.
    """
    content = read_json(path)
    if key not in content:
        raise UserError(f"{path} says nothing about {key}")
    return content[key]


def read_weights(path: Path, card: Path) -> dict[str, Tensor]:
    """Read a safetensors file after checking its SHA-256 against the one in a JSON file.

    Raises:
        UserError: a file is missing, or the SHA-256 differs.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    check_sha256(path, read_key(card, "sha256"))
    return safetensors.torch.load_file(path)


def load_strict(model: torch.nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict of any float dtype; one UserError names all keys that do not fit."""
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    problems += [
        f"{key} has shape {list(state[key].shape)}, expected {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise UserError(f"{origin} does not fit this model: {shown}")
    model.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})


def read_llamagen(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a LlamaGen checkpoint, inference or trainer form, with weights_only.

    The trainer form contains its command line as an `argparse.Namespace`, the only extra type allowed.

    Raises:
        UserError: the file does not exist, contains code, or has no `ema` / `model` / `state_dict`.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a plain checkpoint (refused): {error}") from error
    for key in ("ema", "model", "state_dict"):
        if isinstance(content, Mapping) and key in content:
            return dict(content[key])
    raise UserError(f"{path}: none of the keys ema, model, state_dict")


def holds_colour(directory: Path) -> bool:
    """Whether the tokenizer in a directory was made for colour images."""
    return read_shape(directory / CONFIG).image_channels == 3


def write_llamagen(model: VQModel, path: Path) -> None:
    """Save in LlamaGen's inference form (`{"model": state_dict}`)."""
    with atomic_file(path) as temporary:
        torch.save({"model": model.state_dict()}, temporary)


def load_shipped() -> VQModel:
    """The tokenizer that comes with this package, in eval mode on `device()`."""
    return load_base("shipped", read_shape(SHIPPED.with_suffix(".json"))).eval().to(device())


def load_base(base: str, config: VQConfig, channels: Channels = 1) -> VQModel:
    """Make the tokenizer that fine-tuning starts from.

    With three channels, the base may still be one of grey images, for `colour.colour_model` to widen.

    Args:
        base: `shipped` (the weights in this package), `none` (fresh weights), or the path of a LlamaGen
            checkpoint (.pt) or of a directory written by `save_tokenizer`.
        config: the expected shape, of grey images.
        channels: of the images. LlamaGen's network was trained on colours and serves both.

    Raises:
        UserError: the weights have another shape, or are those of colour images where grey is asked for.
    """
    folder = Path(base) if Path(base).is_dir() else None
    from_file = folder is None and base not in ("none", "shipped")
    if channels == 3 and (holds_colour(folder) if folder else from_file and not config.patch_path):
        config = config.in_colour()
    model = VQModel(config)
    if base == "none":
        return model
    if base == "shipped":
        card = SHIPPED.with_suffix(".json")
        shape = read_shape(card)
        if shape != config:
            raise UserError(
                f"the shipped weights have shape {shape!r}, the settings require {config!r}: "
                "set finetune_vq.tokenizer.base to none, or use the shipped shape"
            )
        load_strict(model, read_weights(SHIPPED, card), str(SHIPPED))
    elif folder:
        if channels == 1 and holds_colour(folder):
            raise UserError(
                f"{base} is a tokenizer of colour images: set data.channels to 3, or another base"
            )
        load_strict(model, read_weights(folder / WEIGHTS, folder / CONFIG), base)
    else:
        load_strict(model, read_llamagen(Path(base)), base)
    return model
