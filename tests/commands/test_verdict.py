"""The last lines of `metaldefect train` can be typed as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

from metaldefect.commands.verdict import next_step


def test_the_command_for_another_threshold_quotes_the_detectors_folder() -> None:
    metrics = {"calibration": {"threshold": {"method": "1% may be flagged", "support": "40 images"}}}
    for folder in ("models/plant", "models/north plant; rm -r ~"):
        command = next_step(metrics, Path(folder)).partition("another: ")[2]
        assert shlex.split(command) == ["metaldefect", "calibrate", folder, "--false-alarms", "5%"]
