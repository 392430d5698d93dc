"""Windows of steel strip: good ones keep clear of every defect, masks stay exact, one per photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.strip_windows import CLEARANCE, SIDE, write_windows
from metaldefect.images import read_grey, write_png


def test_good_windows_keep_clear_and_defects_keep_their_masks(tmp_path: Path) -> None:
    root, output = tmp_path / "raw", tmp_path / "windows"
    (root / "Source Images").mkdir(parents=True)
    (root / "Ground truth").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        # Grey levels name their row, so that a window says where it was cut
        image = np.repeat(np.arange(200, dtype=np.uint8)[:, None], 200, axis=1)
        mask = np.zeros((200, 200), np.uint8)
        if number == 4:  # no window is free
            mask[60:140:4] = 255
        else:
            top = int(rng.integers(150, 180))
            mask[top : top + 12, 20:60] = 255
        write_png(root / f"Source Images/Sc_{number}.png", image)
        write_png(root / f"Ground truth/Sc_{number}.png", mask)
    assert write_windows(root, output) == {"good": 3, "scratches": 3}
    names = sorted(path.name for path in (output / "good").iterdir())
    assert names == ["Sc_1.png", "Sc_2.png", "Sc_5.png"], "every third shows its defect, and so does number 4"
    for name in names:
        window = read_grey(output / "good" / name)
        assert window.shape == (SIDE, SIDE)
        rows = np.flatnonzero(read_grey(root / "Ground truth" / name).any(axis=1))
        assert window[-1, 0] + CLEARANCE < rows.min()
    for path in (output / "scratches").iterdir():
        window, mask = read_grey(path), read_grey(output / "masks/scratches" / path.name)
        truth = read_grey(root / "Ground truth" / path.name)
        top = int(window[0, 0])
        assert mask.any()
        assert (mask.any(axis=1) == truth[top : top + SIDE].any(axis=1)).all()
