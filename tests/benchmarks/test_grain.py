"""The grain's benchmark compares the grain with its parts."""

import numpy as np
import torch

from benchmarks.grain import rendered, variants
from metaldefect.synthesis.grain import BANDS, Grain


def test_parts_of_a_grain_are_rendered_on_the_same_images() -> None:
    grain = Grain(torch.full((2, BANDS), 2.0), torch.full((1, BANDS), 3.0), torch.ones(1, 2))
    codes, levels = torch.zeros((3, 4, 4), dtype=torch.int64), np.full((3, 64, 64), 128, np.float32)
    strength = {name: rendered(part, codes, levels, 2).std() for name, part in variants(grain).items()}
    assert strength["without"] == 0
    np.testing.assert_allclose(strength["by_codes_and_images"], 3 * strength["by_codes"], rtol=0.02)
