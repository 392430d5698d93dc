"""Load the models that draw, or say how to get by without them."""

from __future__ import annotations

from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.rerun import repro_command
from metaldefect.synthesis.painter import Painter, load_painter


def require_models(tokenizer: Path, maskgit: Path, instead: str) -> Painter:
    """Load tokenizer and MaskGIT; `instead` tells a user without models what works without them.

    Raises:
        UserError: a folder does not exist; the message says which command makes it and what needs no models.
    """
    for folder, option in ((tokenizer, "--tokenizer"), (maskgit, "--maskgit")):
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist: --method drawn needs trained models."
                f" `{repro_command(Path())}` trains them,"
                f" or name another folder with {option}. {instead}"
            )
    return load_painter(tokenizer, maskgit)
