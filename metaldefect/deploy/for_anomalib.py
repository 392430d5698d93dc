"""A copy of an exported graph for anomalib's `OpenVINOInferencer`, which hands images over in its own way.

The inferencer divides levels by 255, puts channels first, and reads any `metadata.json` beside the graph as
its own, so the copy has another input, anomalib's names of outputs, and a folder of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops

from metaldefect.artifacts import atomic_directory
from metaldefect.deploy.bundle import (
    Precision,
    check_files,
    graph_file,
    precision_files,
    read_metadata,
)
from metaldefect.deploy.compiled import core
from metaldefect.deploy.graph import INPUT
from metaldefect.errors import UserError
from metaldefect.image_files import Levels

GREY_RANGE = 255.0


def write_for_anomalib(folder: Path, precision: str, output: Path) -> Path:
    """Write `model.xml` and `model.bin`, which anomalib's `OpenVINOInferencer` loads.

    It takes RGB images of any size and answers the bundle's `anomaly_map` and score (`pred_score`), without
    rescaling, and `pred_label`: whether the score exceeds the bundle's threshold.

    Args:
        folder: the bundle.
        precision: fp32, fp16 or int8.
        output: a new folder.

    Returns:
        The path of `model.xml`.

    Raises:
        UserError: the bundle is not whole or lacks the precision, or `output` exists.
    """
    metadata = read_metadata(folder)
    graph_file(precision)
    if precision not in metadata.precisions:
        raise UserError(f"{folder} has no {precision} graph, only {', '.join(metadata.precisions)}")
    if output.exists():
        raise UserError(f"{output} exists: name a new folder")
    check_files(folder, metadata, precision_files(metadata, precision))
    stated = metadata.precisions[precision]
    model = core().read_model(folder / stated.graph)
    adapted = with_outputs(with_input(model, metadata.input.frame_levels), stated)
    with atomic_directory(output) as temporary:
        openvino.save_model(adapted, temporary / "model.xml", compress_to_fp16=False)
    return output / "model.xml"


def with_input(model: Any, levels: Levels | None) -> Any:
    """The graph with an input `float32 [1, 3, H, W]` of levels divided by 255, in place of camera frames."""
    low, high = (0.0, GREY_RANGE) if levels is None else (levels.low, levels.high)
    frame = model.input(INPUT)
    image = ops.parameter([1, 3, -1, -1], np.float32, name="image")
    image.output(0).get_tensor().set_names({"image"})
    spread = ops.add(ops.multiply(image, np.float32(high - low)), np.float32(low))
    pixels = ops.convert(ops.round(spread, "half_to_even"), frame.get_element_type().get_type_name())
    last = ops.transpose(pixels, np.array([0, 2, 3, 1]))
    old = frame.get_node()
    frame.replace(last.output(0))
    model.add_parameters([image])
    model.remove_parameter(old)
    return model


def with_outputs(model: Any, stated: Precision) -> Any:
    """The graph with anomalib's outputs alone: `anomaly_map`, `pred_score` and `pred_label`."""
    maps, score = (model.output(name).get_node().input_value(0) for name in ("anomaly_map", "score"))
    label = ops.greater(score, np.float32(stated.threshold)).output(0)
    outputs = {"anomaly_map": maps, "pred_score": score, "pred_label": label}
    for result in list(model.get_results()):
        model.remove_result(result)
    results = []
    for name, value in outputs.items():
        value.get_tensor().set_names({name})
        results.append(ops.result(value, name=name))
    model.add_results(results)
    model.validate_nodes_and_infer_types()
    return model
