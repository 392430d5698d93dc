"""The variants that `benchmarks.ablation` compares, as changes of the pipeline's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from metaldefect.hardware import autocast_dtype
from pipeline.params import Params, parse_params

TRAINING, SAMPLING = "train_maskgit", "synthesize.sampling"


@dataclass(frozen=True)
class Variant:
    """A variant: its dotted parameters that differ from v2, and the comparison it belongs to."""

    name: str
    question: str
    overrides: Mapping[str, Any]
    precision: str | None = None  # METALDEFECT_PRECISION: hardware settings are not parameters

    @property
    def trains(self) -> bool:
        """Whether the variant needs its own training: v2, and variants with changed training parameters."""
        return not self.precision and (
            self.name == "v2" or any(not key.startswith("synthesize.") for key in self.overrides)
        )


V1 = {
    f"{TRAINING}.conditioning": "sum",
    f"{TRAINING}.mixing": 0,
    f"{TRAINING}.codebook_start": 0.0,
    f"{TRAINING}.training.balanced": False,
    f"{TRAINING}.training.unconditional_steps": 0,
    "tokenize.vocabulary": "full",
    f"{SAMPLING}.order": "confidence",
}
SHORT = {
    f"{TRAINING}.conditioning": "conditioning",
    f"{TRAINING}.mixing": "local mixing",
    f"{TRAINING}.codebook_start": "start of embeddings",
    f"{TRAINING}.training.balanced": "sampling of training images",
    f"{TRAINING}.training.unconditional_steps": "stages",
    "tokenize.vocabulary": "vocabulary",
    f"{SAMPLING}.order": "order of sampling",
}


def variants() -> list[Variant]:
    """v2, v1, then the variants with one difference each."""
    found = [Variant("v2", "whole", {}), Variant("v1", "whole", V1)]
    found += [Variant(f"{SHORT[key]}: v1's", SHORT[key], {key: value}) for key, value in V1.items()]
    found.append(Variant("order: random", SHORT[f"{SAMPLING}.order"], {f"{SAMPLING}.order": "random"}))
    found += [Variant(f"{n} steps", "steps", {f"{SAMPLING}.steps": n}) for n in (8, 16, 32, 64)]
    found += [
        Variant(f"guidance {w:g}", "guidance", {f"{SAMPLING}.guidance": w}) for w in (0.0, 1.0, 2.0, 3.0, 4.0)
    ]
    found.append(
        Variant("guidance rising", "guidance", {f"{SAMPLING}.guidance_schedule": "linear"}),
    )
    found.append(Variant("chosen of 4 candidates", "candidates", {"synthesize.candidates.per_image": 4}))
    found.append(Variant("detail by grain", "detail", {"synthesize.detail": "grain"}))
    found.append(Variant("without detail", "detail", {"synthesize.detail": "none"}))
    if autocast_dtype() == torch.bfloat16:  # else emulation takes hours
        found += [Variant(f"sampled in {p}", "precision", {}, p) for p in ("float32", "bfloat16")]
    return found


def overridden(params: Mapping[str, Any], overrides: Mapping[str, Any]) -> Params:
    """`params.yaml` with dotted keys replaced.

    Raises:
        ParamsError: names an unknown key.
    """
    content = deepcopy(dict(params))
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        section = content
        for part in path:
            section = section[part]
        section[last] = value
    return parse_params(content, "params.yaml with the variant's changes")
