"""Loading and saving tokenizers: our safetensors + JSON, and LlamaGen's checkpoints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from metaldefect.artifacts import atomic_file, read_json, write_json
from metaldefect.errors import UserError
from metaldefect.hardware import device
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.model import VQModel

WEIGHTS = "tokenizer.safetensors"
CONFIG = "config.json"
SHIPPED = Path(__file__).parents[1] / "weights" / "vq16_small.safetensors"


def save_tokenizer(model: VQModel, directory: Path, extra: Mapping[str, object] | None = None) -> None:
    """Write `tokenizer.safetensors` and `config.json` (with `extra` keys beside the config)."""
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / WEIGHTS) as temporary:
        safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
    write_json(directory / CONFIG, {"tokenizer": model.config.to_dict(), **(extra or {})})


def load_tokenizer(directory: Path) -> VQModel:
    """Load what `save_tokenizer` wrote, in eval mode on `device()`.

    Raises:
        UserError: the directory holds no tokenizer; or a key is missing, unexpected or of another shape;
            all such keys are named.
    """
    model = VQModel(VQConfig.from_dict(read_json(directory / CONFIG)["tokenizer"]))
    path = directory / WEIGHTS
    load_strict(model, safetensors.torch.load_file(path), str(path))
    return model.eval().to(device())


def load_strict(model: torch.nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict of any float dtype; every key that does not fit is named in one error."""
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
    """State dict of a LlamaGen checkpoint, inference or trainer form, read with weights_only.

    The trainer form carries its command line as an `argparse.Namespace`, the one extra type allowed.

    Raises:
        UserError: no such file; or the file holds code, or no `ema` / `model` / `state_dict`.
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


def write_llamagen(model: VQModel, path: Path) -> None:
    """Save in LlamaGen's inference form (`{"model": state_dict}`)."""
    with atomic_file(path) as temporary:
        torch.save({"model": model.state_dict()}, temporary)


def load_base(base: str, config: VQConfig) -> VQModel:
    """The tokenizer that fine-tuning starts from.

    Args:
        base: `shipped` (weights that come with this package), `none` (fresh weights), or the path
            of a LlamaGen checkpoint (.pt) or of a directory made by `save_tokenizer`.
        config: the shape wanted.

    Raises:
        UserError: the weights are of another shape.
    """
    model = VQModel(config)
    if base == "none":
        return model
    if base == "shipped":
        card = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))
        if VQConfig.from_dict(card["tokenizer"]) != config:
            raise UserError(
                f"the shipped weights are of shape {card['tokenizer']}, params ask for {config.to_dict()}: "
                "take finetune_vq.tokenizer.base: none, or the shipped shape"
            )
        load_strict(model, safetensors.torch.load_file(SHIPPED), str(SHIPPED))
    elif Path(base).is_dir():
        load_strict(model, safetensors.torch.load_file(Path(base) / WEIGHTS), base)
    else:
        load_strict(model, read_llamagen(Path(base)), base)
    return model
