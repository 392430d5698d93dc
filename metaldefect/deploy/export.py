"""Export a detector to ONNX, and to OpenVINO in FP32, FP16 and INT8, as a bundle that proves itself."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray

from metaldefect.deploy.bundle import (
    ONNX,
    PRECISIONS,
    TOLERANCES,
    FrameRule,
    GoldenFrame,
    Lineage,
    Metadata,
    Precision,
    graph_file,
    read_metadata,
    write_metadata,
)
from metaldefect.deploy.calibration import validate_precision
from metaldefect.deploy.compiled import CompiledGraph, core
from metaldefect.deploy.frames import as_frame
from metaldefect.deploy.golden import GOLDEN_FRAMES, draw_golden_frames, write_golden_frames
from metaldefect.deploy.graph import INPUT, OUTPUTS, InspectionGraph
from metaldefect.efficientad.model_files import MAPS, DetectorConfig
from metaldefect.efficientad.thresholds import transfer
from metaldefect.image_files import MAX_PIXELS, MIN_SIDE
from metaldefect.images import U8, height_and_width

FRAME_CHANNELS = (1, 3)  # that frames of every detector may have
# Eight bits are too few for resizing, for the feature differences, their squares and the map scaling.
NOT_QUANTISED = (
    "MatMul",
    "Subtract",
    "Multiply",
    "Divide",
    "Power",
    "SquaredDifference",
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "Interpolate",
)


def export_bundle(
    graph: InspectionGraph,
    config: DetectorConfig,
    folder: Path,
    calibration: U8,
    normals: U8,
    known: Sequence[float],
    lineage: Lineage,
    golden_frames: int = GOLDEN_FRAMES,
) -> Metadata:
    """Write the whole bundle: graphs, golden frames and metadata.

    Each precision gets its own threshold, which flags what the configured one flags in the trained networks.

    Args:
        graph: the detector with its preprocessing.
        config: the detector's configuration.
        folder: an empty folder.
        calibration: images of the detector's size, `uint8 [N, H, W]` or `[N, H, W, 3]`, that set the INT8
            ranges. Some must show defects, real or
            painted, because INT8 clips values beyond those of the images.
        normals: validation images without defects, of the same shape.
        known: the trained networks' scores of these normals, from their calibration.
        lineage: where the detector comes from.
        golden_frames: how many frames the self-test has.

    Raises:
        ValueError: `calibration` or `normals` is empty.
    """
    if not len(calibration) or not len(normals):
        raise ValueError("no images to calibrate INT8 on, or to choose thresholds by")
    export_onnx(graph, folder / ONNX)
    rule = frame_rule(graph)
    golden = draw_golden_frames(graph.size, graph.levels, golden_frames)
    frames = [as_frame(image, rule) for image in [*normals, *golden]]
    with tempfile.TemporaryDirectory(dir=folder) as raw:
        export_openvino(folder / ONNX, Path(raw), [as_frame(image, rule) for image in calibration])
        compiled = {name: CompiledGraph(Path(raw) / graph_file(name), name) for name in PRECISIONS}
        scores = {
            name: np.array([score for score, _ in each.stream(frames)]) for name, each in compiled.items()
        }
        validated = {name: values[: len(normals)] for name, values in scores.items()}
        thresholds = {name: transfer(config.threshold, known, values) for name, values in validated.items()}
        for name in PRECISIONS:
            write_described(Path(raw) / graph_file(name), folder / graph_file(name), thresholds[name])
    names = write_golden_frames(folder, golden)
    expected = {name: values[len(normals) :] for name, values in scores.items()}
    height, width = height_and_width(graph.size)
    content = {
        "model": f"EfficientAD-{config.size}",
        "padding": config.padding,
        "image_size": graph.size,
        "tiles": config.tiles,
        "input": rule,
        "outputs": {
            "anomaly_map": f"f32 [1, 1, {height}, {width}]",
            "score": "f32 [1], the map's maximum",
            "student_map": "as anomaly_map: the scaled student-teacher map, which sees local structure",
            "autoencoder_map": "as anomaly_map: the scaled autoencoder map, which sees the whole part",
        },
        "map_weights": dict(zip(MAPS, graph.model.map_weights.tolist(), strict=True)),
        "threshold_source": config.threshold_source,
        "precisions": {
            name: Precision(
                graph=graph_file(name),
                threshold=thresholds[name],
                tolerance=TOLERANCES[name],
                execution=compiled[name].execution,
                validation=validate_precision(validated, thresholds, name),
            )
            for name in PRECISIONS
        },
        "golden": [
            GoldenFrame(file=file, scores={name: float(expected[name][index]) for name in PRECISIONS})
            for index, file in enumerate(names)
        ],
        "lineage": lineage,
    }
    return write_metadata(folder, content)


def frame_rule(graph: InspectionGraph) -> FrameRule:
    """What frames of a graph look like."""
    return FrameRule(
        name=INPUT,
        type="u8" if graph.levels is None else "u16",
        channels=FRAME_CHANNELS,
        seen=graph.channels,
        levels=graph.levels,
    )


def export_onnx(graph: InspectionGraph, path: Path) -> None:
    """Write the graph for one frame `[1, H, W, C]` of any size as a single ONNX file with its weights."""
    height, width = height_and_width(graph.size)
    example = torch.zeros(1, height, width + 1, max(FRAME_CHANNELS), dtype=graph.dtype)
    longest = MAX_PIXELS // MIN_SIDE
    dynamic = {
        axis: torch.export.Dim(name, min=MIN_SIDE, max=longest)
        for axis, name in ((1, "height"), (2, "width"))
    }
    dynamic[3] = torch.export.Dim("channels", min=1, max=max(FRAME_CHANNELS))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        graph.eval(),
        (example,),
        path,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamo=True,
        dynamic_shapes=(dynamic,),
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


def export_openvino(onnx_path: Path, folder: Path, calibration: Sequence[NDArray[Any]]) -> None:
    """Write the FP32, FP16 and INT8 graphs.

    Args:
        onnx_path: the file that `export_onnx` wrote.
        folder: receives the graphs.
        calibration: frames `[H, W, C]` that set the INT8 ranges.
    """
    model = openvino.convert_model(onnx_path)
    openvino.save_model(model, folder / graph_file("fp32"), compress_to_fp16=False)
    openvino.save_model(model, folder / graph_file("fp16"), compress_to_fp16=True)
    quantised = quantise(openvino.convert_model(onnx_path), calibration)
    openvino.save_model(quantised, folder / graph_file("int8"), compress_to_fp16=False)


def quantise(model: Any, calibration: Sequence[NDArray[Any]]) -> Any:
    """Quantise the graph's convolutions to INT8 after training; ranges cover every calibration image.

    NNCF's default range, the mean of the images' extremes, clips unusual values, which are just what a
    detector looks for: defects then score no higher than some normal images.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset([frame[None] for frame in calibration]),
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(types=list(NOT_QUANTISED), validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
    )


def set_thresholds(
    folder: Path, thresholds: Mapping[str, float], source: str, scores: Mapping[str, NDArray[np.float64]]
) -> None:
    """Give an exported bundle other thresholds, in its metadata and graphs; a signature becomes invalid.

    Args:
        folder: the bundle.
        thresholds: by precision.
        source: how they were chosen, in words.
        scores: of the same good images, by precision, for the figures in the metadata.
    """
    content = read_metadata(folder).model_dump(exclude={"sha256"})
    for name, described in content["precisions"].items():
        graph = folder / described["graph"]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            changed = Path(temporary) / graph.name
            write_described(graph, changed, thresholds[name])
            for suffix in (".bin", ".xml"):
                changed.with_suffix(suffix).replace(graph.with_suffix(suffix))
        described["threshold"] = thresholds[name]
        described["validation"] = validate_precision(scores, thresholds, name).model_dump()
    write_metadata(folder, content | {"threshold_source": source})


def write_described(source: Path, target: Path, threshold: float) -> None:
    """Copy a graph and write into it what OpenVINO Model API needs to run it as `AnomalyDetection`.

    Model API shows `0.5 + (score - threshold) / normalization_scale`: 0.5 at the threshold, 1 at twice it.
    """
    model = core().read_model(source)
    model.input().get_node().layout = openvino.Layout("NHWC")
    described = {
        "model_type": "AnomalyDetection",
        "task": "segmentation",
        "labels": "Normal Anomalous",
        "embedded_processing": True,
        "image_threshold": threshold,
        "pixel_threshold": threshold,
        "normalization_scale": max(2.0 * threshold, 1e-6),
    }
    for key, value in described.items():
        model.set_rt_info(str(value), ["model_info", key])
    openvino.save_model(model, target, compress_to_fp16=False)


def parity(graph: InspectionGraph, folder: Path, frames: Sequence[NDArray[Any]]) -> dict[str, float]:
    """Compare the ONNX file and the FP32 graph with torch: largest absolute errors of score and map.

    Requests float32 execution from OpenVINO, whose default precision depends on the machine, not the file.

    Args:
        graph: the exported torch module.
        folder: holds the exported files.
        frames: images of any size that the graph takes, `[H, W]` or `[H, W, C]`.
    """
    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    compiled = CompiledGraph(folder / graph_file("fp32"), "fp32")
    errors = {f"{kind}_{output}": 0.0 for kind in ("onnx", "fp32") for output in ("map", "score")}
    for image in frames:
        frame = as_frame(image, frame_rule(graph))
        with torch.inference_mode():
            expected_map, expected_score, *_ = graph(torch.from_numpy(frame[None].copy()))
        score, anomaly_map = compiled.score(frame)
        onnx_map, onnx_score = session.run(list(OUTPUTS[:2]), {INPUT: frame[None]})
        found = {"onnx": (onnx_map[0, 0], onnx_score[0]), "fp32": (anomaly_map, score)}
        for kind, (this_map, this_score) in found.items():
            differences = {
                "map": float(np.abs(this_map - expected_map[0, 0].numpy()).max()),
                "score": abs(float(this_score) - float(expected_score[0])),
            }
            for output, value in differences.items():
                errors[f"{kind}_{output}"] = max(errors[f"{kind}_{output}"], value)
    return errors | {"max_abs_error": max(errors.values())}
