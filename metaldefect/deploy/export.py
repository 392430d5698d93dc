"""Export a detector to ONNX, and to OpenVINO in FP32, FP16 and INT8."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch

from metaldefect.artifacts import sha256_file, write_json
from metaldefect.deploy.graph import INPUT, OUTPUTS, InspectionGraph
from metaldefect.efficientad.model_files import DetectorConfig
from metaldefect.errors import UserError
from metaldefect.images import U8

ONNX = "model.onnx"
METADATA = "metadata.json"
PRECISIONS = ("fp32", "fp16", "int8")

# Eight bits are too few for the feature differences, their squares and the map scaling.
NOT_QUANTISED = (
    "Subtract",
    "Multiply",
    "Power",
    "SquaredDifference",
    "ReduceMean",
    "ReduceMax",
    "Interpolate",
)


def graph_file(precision: str) -> str:
    """File name of a precision's OpenVINO graph."""
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    return f"detector_{precision}.xml"


def export_onnx(graph: InspectionGraph, size: int, path: Path) -> None:
    """Write the graph for one frame `uint8 [1, size, size, 1]` as a single ONNX file with its weights."""
    example = torch.zeros(1, size, size, 1, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        graph.eval(),
        (example,),
        path,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(path)
    # The exporter records source lines of the exporting machine in every node; they would change the bytes.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


def export_openvino(onnx_path: Path, folder: Path, calibration: U8) -> None:
    """Write the FP32, FP16 and INT8 graphs.

    Args:
        onnx_path: the file that `export_onnx` wrote.
        folder: receives the graphs.
        calibration: images `uint8 [N, H, W]` at the graph's size that set the INT8 ranges. Some must show
            defects, real or painted, because INT8 clips values beyond those of the images.

    Raises:
        ValueError: `calibration` is empty.
    """
    if not len(calibration):
        raise ValueError("no images to calibrate INT8 on")
    model = openvino.convert_model(onnx_path)
    openvino.save_model(model, folder / graph_file("fp32"), compress_to_fp16=False)
    openvino.save_model(model, folder / graph_file("fp16"), compress_to_fp16=True)
    quantised = quantise(openvino.convert_model(onnx_path), calibration)
    openvino.save_model(quantised, folder / graph_file("int8"), compress_to_fp16=False)


def quantise(model: Any, calibration: U8) -> Any:
    """Quantise the graph's convolutions to INT8 after training; ranges cover every calibration image.

    NNCF's default range, the mean of the images' extremes, clips unusual values, which are just what a
    detector looks for: defects then score no higher than some normal images.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)
    dataset = nncf.Dataset(list(calibration[:, None, :, :, None]))
    return nncf.quantize(
        model,
        dataset,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(types=list(NOT_QUANTISED), validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
    )


def parity(graph: InspectionGraph, folder: Path, frames: U8) -> dict[str, float]:
    """Compare the ONNX file and the FP32 graph with torch: largest absolute errors of score and map.

    Requests float32 execution from OpenVINO, whose default precision depends on the machine, not the file.

    Args:
        graph: the exported torch module.
        folder: holds the exported files.
        frames: grey `uint8 [N, H, W]` at the graph's size.
    """
    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(
        folder / graph_file("fp32"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    errors = {f"{kind}_{output}": 0.0 for kind in ("onnx", "fp32") for output in ("map", "score")}
    for frame in frames[:, None, :, :, None]:
        with torch.inference_mode():
            expected = [value.numpy() for value in graph(torch.from_numpy(frame))]
        results = compiled({INPUT: frame})
        found = {
            "onnx": session.run(list(OUTPUTS), {INPUT: frame}),
            "fp32": [results[name] for name in OUTPUTS],
        }
        for kind, values in found.items():
            for output, value, truth in zip(("map", "score"), values, expected, strict=True):
                key = f"{kind}_{output}"
                errors[key] = max(errors[key], float(np.abs(value - truth).max()))
    return errors | {"max_abs_error": max(errors.values())}


def write_metadata(folder: Path, config: DetectorConfig, thresholds: dict[str, float]) -> None:
    """Write `metadata.json`: all that a program needs to run the files, and their SHA-256.

    Args:
        folder: holds the exported files.
        config: the detector's configuration.
        thresholds: by precision; a higher score means anomalous.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != METADATA)
    write_json(
        folder / METADATA,
        {
            "model": f"EfficientAD-{config.size}",
            "image_size": config.image_size,
            "input": {
                "name": INPUT,
                "layout": "NHWC",
                "shape": [1, config.image_size, config.image_size, 1],
                "type": "u8",
                "meaning": "grey levels, resized with antialiased bilinear interpolation",
            },
            "outputs": {
                "anomaly_map": f"f32 [1, 1, {config.image_size}, {config.image_size}]",
                "score": "f32 [1], the map's maximum",
            },
            "preprocessing": "inside the graph",
            # Above 8 bits, grey = 255 (level - low) / (high - low); null: no such image was trained on
            "levels": config.levels and asdict(config.levels),
            "precisions": list(PRECISIONS),
            "thresholds": thresholds,
            "threshold_source": config.threshold_source,
            "sha256": {path.name: sha256_file(path) for path in files},
        },
    )
