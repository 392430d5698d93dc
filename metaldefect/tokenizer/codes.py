"""Which codes a tokenizer's tokens stand for: a model of tokens may go on only where these are the same."""

from __future__ import annotations

from metaldefect.tokenizer.model import VQModel
from metaldefect.training.resume import content_digest

# In a tokenizer's card: `grey_codebook_digest` of the codes that it started from and that moved only slowly
NEAR_CODES = "near_codes_sha256"


def codebook_digest(tokenizer: VQModel) -> str:
    """SHA-256 of a tokenizer's codebook as it is stored: normalising it may round differently elsewhere."""
    return content_digest(tokenizer.quantize.embedding.weight)


def grey_codebook_digest(tokenizer: VQModel) -> str:
    """`codebook_digest` of the grey tokenizer that a tokenizer of colours was made from."""
    entries, config = tokenizer.quantize.embedding.weight, tokenizer.config
    grey = entries[: len(entries) - config.hue_codes, : config.codebook_dim - config.hue_dim]
    return content_digest(grey.contiguous())
