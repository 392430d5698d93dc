"""No stage learns from rows of another split, whatever its inputs hold."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metaldefect.errors import UserError
from metaldefect.tokenizer.checkpoints import save_tokenizer
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.model import VQModel
from pipeline.params import load_params
from pipeline.run import StageRun
from stages import finetune_vq, tokenize, train_maskgit

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("stage", [finetune_vq, tokenize, train_maskgit], ids=lambda stage: stage.STAGE)
@pytest.mark.parametrize("foreign", ["validation", "test"])
def test_a_stage_that_learns_refuses_rows_of_another_split(
    stage: ModuleType, foreign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows: dict[str, Any] = {
        "path": ["a.png", "b.png"], "label": "crazing", "source": "s", "split": ["train", foreign],
        "group": ["a", "b"],
    }  # fmt: skip
    for folder in ("data/augmented", "data/merged", "data/tokens/train"):
        Path(folder).mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(f"{folder}/samples.parquet")
    np.save("data/tokens/train/tokens.npy", np.zeros((2, 16, 16), np.uint16))
    save_tokenizer(VQModel(named_config("vq16_tiny")), Path("models/vq"), {"image_size": 256})
    with pytest.raises(UserError, match=rf"not of the train split, such as b\.png \({foreign}\)"):
        stage.main(load_params(ROOT / "params.yaml"), StageRun(stage.STAGE, "", "", ""))
