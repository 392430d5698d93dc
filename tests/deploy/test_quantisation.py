"""INT8 with accuracy control: plain INT8 loses a planted signal, the controlled one keeps it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from metaldefect.deploy.export import Scored, choose_int8
from metaldefect.deploy.quantisation import (
    Judges,
    kept_in_float,
    quantise,
    quantise_with_control,
)

SIDE = 16


def planted_graph() -> Any:
    """A graph whose score is a faint signal beside a strong one, in the same tensor.

    Two convolutions of 1 x 1: the first makes the channels 1000 x and x / 50 of the frame x, the second
    returns the faint one. INT8 gives both channels one range, whose steps are wider than the faint channel.
    """
    frame = ops.parameter([1, SIDE, SIDE, 1], np.uint8, name="frame")
    frame.output(0).get_tensor().set_names({"frame"})
    x = ops.transpose(ops.convert(frame, "f32"), np.array([0, 3, 1, 2]))
    convolve = partial(ops.convolution, strides=[1, 1], pads_begin=[0, 0], pads_end=[0, 0], dilations=[1, 1])
    spread = convolve(x, np.array([1000.0, 0.02], np.float32).reshape(2, 1, 1, 1))
    spread.set_friendly_name("spread")
    faint = convolve(spread, np.array([0.0, 50.0], np.float32).reshape(1, 2, 1, 1))
    faint.set_friendly_name("faint")
    score = ops.reduce_max(faint, np.array([1, 2, 3]), keep_dims=False)
    score.output(0).get_tensor().set_names({"score"})
    return openvino.Model([ops.result(score)], [frame], "planted")


def image(level: int) -> np.ndarray:
    return np.full((SIDE, SIDE), level, np.uint8)


JUDGES = Judges(
    normals=np.stack([image(level) for level in range(20, 28)]),
    defects=[image(level) for level in (40, 41, 60, 61)],
    kinds=["faint", "faint", "strong", "strong"],
)
FRAMES = [one[..., None] for one in JUDGES.images]


def scores(model: Any) -> list[float]:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [float(compiled(frame[None])["score"][0]) for frame in FRAMES]


def test_the_loss_is_measured_in_all_and_by_kind_of_defect() -> None:
    reference = [*range(8), 10, 11, 20, 21]
    worse = [*range(8), 3.5, 11, 20, 21]  # one of two faint defects falls below four of eight good images
    assert JUDGES.drop_by_kind(worse, reference) == {"faint": 0.25, "strong": 0.0}
    assert JUDGES.drop(worse, reference) == 0.125
    assert JUDGES.drop(reference, worse) == -0.125


def test_a_loss_is_sure_once_many_images_agree_on_it() -> None:
    def judged(times: int) -> tuple[Judges, list[float], list[float]]:
        judges = Judges(np.zeros((8 * times, 1, 1), np.uint8), [image(1)] * 4 * times, ["dent"] * 4 * times)
        normals = [float(k) for k in range(8)] * times
        return judges, normals + [3.5, 11, 20, 21] * times, normals + [10.0, 11, 20, 21] * times

    few, worse, reference = judged(1)
    assert few.drop(worse, reference) == 0.125
    assert few.sure_drop(worse, reference) == 0.0
    many, worse, reference = judged(12)
    assert many.drop(worse, reference) == 0.125
    assert 0.03 < many.sure_drop(worse, reference) < 0.125


def test_accuracy_control_keeps_in_float_what_plain_int8_would_lose() -> None:
    exact = scores(planted_graph())
    assert exact == pytest.approx([one.max() for one in FRAMES], rel=1e-4)
    plain = quantise(planted_graph(), FRAMES)
    assert kept_in_float(plain) == []
    assert JUDGES.drop(scores(plain), exact) > 0.3, "the planted trap must be one"
    controlled = quantise_with_control(planted_graph(), FRAMES, FRAMES, JUDGES, max_drop=0.005)
    assert JUDGES.drop(scores(controlled), exact) <= 0.005
    assert "faint" in kept_in_float(controlled)


def test_painted_defects_judge_every_kind_on_validation_images() -> None:
    normals = np.random.default_rng(0).integers(100, 140, (8, 64, 64)).astype(np.uint8)
    judges = Judges.of(normals)
    assert len(judges.images) == 8 + len(judges.defects)
    assert len(set(judges.kinds)) > 8
    assert all(not any(np.array_equal(one, normal) for normal in normals) for one in judges.defects)
    assert judges.auroc([0.0] * 8 + [1.0] * len(judges.defects)) == 1.0
    assert not Judges.of(normals[:7]).kinds, "one pair of so few is more than a quarter of a point"


def test_control_is_used_only_where_plain_int8_loses_too_much() -> None:
    many = Judges(np.zeros((30, 1, 1), np.uint8), [image(1)] * 20, ["dent"] * 20)

    def graph(name: str, found: int) -> Scored:
        """A graph that scores so many of the defects above all good images, and the others below."""
        levels = np.array([0.5] * 30 + [1.0] * found + [0.0] * (20 - found))
        return Scored(Path(name), "f32", (), levels)

    fp32, plain, better, worse = (
        graph("fp32", 20),
        graph("plain", 15),
        graph("better", 19),
        graph("worse", 14),
    )

    def never() -> Scored:
        raise AssertionError("accuracy control costs minutes")

    assert choose_int8(many, fp32, plain, lambda: better, 0.005) is better
    assert choose_int8(many, fp32, plain, lambda: worse, 0.005) is plain
    assert choose_int8(many, fp32, plain, never, 0.3) is plain
    assert choose_int8(many, fp32, fp32, never, 0.005) is fp32
    assert choose_int8(many, fp32, graph("by chance", 19), never, 0.005) is not fp32
    few = Judges(np.zeros((2, 1, 1), np.uint8), [], [])
    alone = Scored(Path(), "f32", (), np.array([0.5, 0.6]))
    assert choose_int8(few, alone, alone, never, 0.005) is alone, "without defects nothing is lost"
