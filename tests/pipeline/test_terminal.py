"""A stage's terminal: other packages' noise is gone, this project's own warnings and lines stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """\
import logging, warnings
import stages
warnings.warn("old name", DeprecationWarning)
warnings.warn("soon gone", FutureWarning)
warnings.warn_explicit("no CUDA here", UserWarning, "x.py", 1, module="torch.cuda")
logging.getLogger("lightning.pytorch").warning("GPU available: False")
warnings.warn("LPIPS cannot be had")
print("step 4/12")
"""


def output(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


def test_noise_is_silent_and_own_words_stay() -> None:
    shown = output()
    for noise in ("old name", "soon gone", "no CUDA here", "GPU available"):
        assert noise not in shown
    assert "LPIPS cannot be had" in shown
    assert "step 4/12" in shown


def test_all_of_it_can_be_asked_for() -> None:
    assert "no CUDA here" in output(METALDEFECT_VERBOSE="1")
