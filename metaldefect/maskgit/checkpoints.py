"""Load and save MaskGIT: our safetensors + JSON, and Halton-MaskGIT's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from metaldefect.artifacts import atomic_file, sha256_file, write_json
from metaldefect.errors import UserError
from metaldefect.hardware import device
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.tokenizer.checkpoints import load_strict, read_key, read_weights

WEIGHTS = "maskgit.safetensors"
CONFIG = "config.json"
SHIPPED = Path(__file__).parents[1] / "weights" / "maskgit_cpu"


def save_maskgit(model: MaskGIT, directory: Path, extra: Mapping[str, object] | None = None) -> None:
    """Write `maskgit.safetensors` and `config.json`: shape, SHA-256 of the weights, `extra`."""
    directory.mkdir(parents=True, exist_ok=True)
    # The head shares the embedding's memory, which safetensors refuses: store it once
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k != "head.weight"}
    with atomic_file(directory / WEIGHTS) as temporary:
        safetensors.torch.save_file(state, temporary)
    own = {"maskgit": model.config.model_dump(mode="json"), "sha256": sha256_file(directory / WEIGHTS)}
    write_json(directory / CONFIG, {**own, **(extra or {})})


def load_maskgit(directory: Path) -> MaskGIT:
    """Load what `save_maskgit` wrote, in eval mode on `device()`.

    Raises:
        UserError: the directory holds no MaskGIT, the weights' SHA-256 differs from `config.json`, or keys do
            not fit; the message names them.
    """
    model = MaskGIT(MaskGITConfig.parse(read_key(directory / CONFIG, "maskgit"), str(directory / CONFIG)))
    load_strict(model, read_maskgit_weights(directory), str(directory / WEIGHTS))
    return model.eval().to(device())


def read_maskgit_weights(directory: Path) -> dict[str, Tensor]:
    """State dict that `save_maskgit` wrote, with the head's tied weights; errors as for `load_maskgit`."""
    state = read_weights(directory / WEIGHTS, directory / CONFIG)
    if "tok_emb.weight" not in state:
        raise UserError(f"{directory / WEIGHTS} does not fit this model: missing tok_emb.weight")
    return state | {"head.weight": state["tok_emb.weight"]}


def read_halton(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a Halton-MaskGIT checkpoint with weights_only, without wrapper prefixes.

    Raises:
        UserError: the file does not exist, contains code, or has no `model_state_dict`.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a plain checkpoint (refused): {error}") from error
    if not isinstance(content, Mapping) or "model_state_dict" not in content:
        raise UserError(f"{path}: no key model_state_dict")
    state = content["model_state_dict"]
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in state.items()}


def start_from_halton(
    model: MaskGIT, state: Mapping[str, Tensor], origin: str, codes: Tensor | None = None
) -> None:
    """Start from a pretrained body: takes all weights except the class rows, which start as the null class.

    The null row is the last one in both the checkpoint and the model; all other classes are new.

    Args:
        model: to fill.
        state: state dict of a checkpoint with any number of classes.
        origin: name of the checkpoint in errors.
        codes: if the model's vocabulary is a subset of the checkpoint's, the checkpoint's token for each of
            the model's, `int64 [codebook_size]`. Takes their rows and the last one, the mask's.

    Raises:
        UserError: the shapes do not fit.
    """
    adapted = dict(state)
    null = adapted["cls_emb.weight"][-1:]
    adapted["cls_emb.weight"] = null.repeat(model.config.classes + 1, 1)
    # Mixing layers start at zero, which leaves the checkpoint's body unchanged
    adapted |= {key: value for key, value in model.state_dict().items() if ".mixing." in key}
    known = len(adapted["tok_emb.weight"]) - 1
    if codes is not None and known != model.config.codebook_size:
        if int(codes.max()) >= known:
            raise UserError(f"{origin} knows {known} codes, the vocabulary goes up to {int(codes.max())}")
        rows = torch.cat([codes, torch.tensor([known])])
        for key in ("tok_emb.weight", "head.weight", "head.bias"):
            adapted[key] = adapted[key][rows]
    load_strict(model, adapted, origin)
