"""Export a detector to ONNX, and to OpenVINO in FP32, FP16 and INT8, as a bundle that proves itself."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray

from metaldefect.artifacts import atomic_directory
from metaldefect.deploy.bundle import (
    METADATA,
    ONNX,
    PRECISIONS,
    SIGNATURE,
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
from metaldefect.deploy.golden import (
    GOLDEN_FRAMES,
    choose_real_frames,
    draw_golden_frames,
    write_golden_frames,
)
from metaldefect.deploy.graph import INPUT, OUTPUTS, InspectionGraph
from metaldefect.deploy.quantisation import (
    MAX_AUROC_DROP,
    Judges,
    kept_in_float,
    quantise,
    quantise_with_control,
)
from metaldefect.efficientad.calibration import MAPS
from metaldefect.efficientad.model_files import DetectorConfig
from metaldefect.efficientad.thresholds import transfer
from metaldefect.image_files import MAX_PIXELS, MIN_SIDE
from metaldefect.images import U8, height_and_width

FRAME_CHANNELS = (1, 3)  # that frames of every detector may have
COUNTED = re.compile(r"\b(?P<kind>[A-Z][A-Za-z]*)_(?P<count>\d+)\b")  # in names that OpenVINO makes


def export_bundle(
    graph: InspectionGraph,
    config: DetectorConfig,
    folder: Path,
    calibration: U8,
    normals: U8,
    known: Sequence[float],
    lineage: Lineage,
    golden_frames: int = GOLDEN_FRAMES,
    max_auroc_drop: float = MAX_AUROC_DROP,
    real_golden_frames: bool = True,
) -> Metadata:
    """Write the whole bundle: graphs, golden frames and metadata.

    Each precision gets its own threshold, which flags what the configured one flags in the trained networks.
    Where plain INT8 surely finds painted defects worse than allowed, it is quantised again with accuracy
    control.

    Args:
        graph: the detector with its preprocessing.
        config: the detector's configuration.
        folder: an empty folder.
        calibration: images of the detector's size, `uint8 [N, H, W]` or `[N, H, W, 3]`, that set the INT8
            ranges. Some must show defects, real or painted, because INT8 clips values beyond theirs.
        normals: validation images without defects, of the same shape.
        known: the trained networks' scores of these normals, from their calibration.
        lineage: where the detector comes from.
        golden_frames: how many frames the self-test has.
        max_auroc_drop: image AUROC of painted defects that INT8 may lose against FP32.
        real_golden_frames: up to half of the golden frames are images of `normals`; False: none is.

    Raises:
        ValueError: `calibration` or `normals` is empty.
    """
    if not len(calibration) or not len(normals):
        raise ValueError("no images to calibrate INT8 on, or to choose thresholds by")
    export_onnx(graph, folder / ONNX)
    rule = frame_rule(graph)
    judges = Judges.of(normals)
    golden = draw_golden_frames(graph.size, graph.levels, golden_frames)
    frames = [as_frame(image, rule) for image in [*judges.images, *golden]]
    ranges = [as_frame(image, rule) for image in calibration]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        raw = Path(name)
        export_openvino(folder / ONNX, raw, ranges)
        scored = {precision: Scored.of(raw, precision, frames) for precision in PRECISIONS}
        judged = frames[: len(judges.images)]

        def controlled() -> Scored:
            target = control(folder / ONNX, raw, ranges, judged, judges, max_auroc_drop)
            return Scored.of(target, "int8", frames)

        scored["int8"] = choose_int8(judges, scored["fp32"], scored["int8"], controlled, max_auroc_drop)
        thresholds = {
            precision: transfer(config.threshold, known, each.scores[: len(normals)])
            for precision, each in scored.items()
        }
        for precision, each in scored.items():
            write_described(each.path, folder / graph_file(precision), thresholds[precision])
    real = real_frames(scored, thresholds, len(normals), golden_frames // 2) if real_golden_frames else []
    # The first procedural frames, which are normal too, make room
    names = write_golden_frames(folder, golden[len(real) :], [np.atleast_3d(normals[one]) for one in real])
    rows = [*range(len(judged) + len(real), len(frames)), *real]
    precisions = describe(scored, thresholds, judges)
    return write_metadata(
        folder,
        {
            **described_graph(graph, config),
            "precisions": precisions,
            "golden": [
                GoldenFrame(file=file, scores={name: float(one.scores[row]) for name, one in scored.items()})
                for row, file in zip(rows, names, strict=True)
            ],
            "lineage": lineage,
        },
    )


@dataclass(frozen=True)
class Scored:
    """A graph on disk, what it computes in, and its scores of some frames."""

    path: Path
    execution: str
    kept_in_float: tuple[str, ...]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, folder: Path, precision: str, frames: Sequence[NDArray[Any]]) -> Scored:
        """Score frames with a precision's graph."""
        path = folder / graph_file(precision)
        compiled = CompiledGraph(path, precision)
        kept = kept_in_float(core().read_model(path)) if precision == "int8" else []
        scores = np.array([score for score, _ in compiled.stream(frames)])
        return cls(path, compiled.execution, tuple(kept), scores)


def real_frames(
    scored: Mapping[str, Scored], thresholds: Mapping[str, float], normals: int, count: int
) -> list[int]:
    """Numbers of the validation images that become golden frames.

    One near a threshold, as the image that set it, is none: another machine may decide otherwise.

    Args:
        scored: by precision; the first scores are of the validation images.
        thresholds: by precision.
        normals: number of validation images.
        count: how many become golden frames, at most.
    """
    clear = np.ones(normals, bool)
    for precision, each in scored.items():
        near = [TOLERANCES[precision].allows(thresholds[precision], score) for score in each.scores[:normals]]
        clear &= ~np.array(near)
    return choose_real_frames(clear, count)


def loss(judges: Judges, scored: Scored, fp32: Scored) -> float:
    """Image AUROC that a precision loses against FP32; 0 without painted defects."""
    count = len(judges.images)
    return judges.drop(scored.scores[:count], fp32.scores[:count]) if judges.kinds else 0.0


def choose_int8(
    judges: Judges, fp32: Scored, plain: Scored, controlled: Callable[[], Scored], max_drop: float
) -> Scored:
    """The plain INT8 graph, unless it surely loses more than allowed and accuracy control loses less.

    Args:
        judges: the images that tell.
        fp32: the reference.
        plain: quantised without control.
        controlled: quantises with control; only called where the plain one loses too much.
        max_drop: image AUROC that may be lost.
    """
    lost = loss(judges, plain, fp32)
    count = len(judges.images)
    # Control costs minutes, and keeps layers in float until no pair of images is ordered otherwise
    if lost <= max_drop or judges.sure_drop(plain.scores[:count], fp32.scores[:count]) <= max_drop:
        return plain
    found = controlled()
    return found if loss(judges, found, fp32) < lost else plain


def control(
    onnx_path: Path,
    folder: Path,
    calibration: Sequence[NDArray[Any]],
    frames: Sequence[NDArray[Any]],
    judges: Judges,
    max_drop: float,
) -> Path:
    """Write an INT8 graph made with accuracy control into a new folder below `folder`, which is returned."""
    target = folder / "controlled"
    target.mkdir()
    model = quantise_with_control(openvino.convert_model(onnx_path), calibration, frames, judges, max_drop)
    number_nodes(model)
    openvino.save_model(model, target / graph_file("int8"), compress_to_fp16=False)
    return target


def describe(
    scored: Mapping[str, Scored], thresholds: Mapping[str, float], judges: Judges
) -> dict[str, Precision]:
    """What the metadata say about each precision."""
    count = len(judges.images)
    normals = {name: each.scores[: len(judges.normals)] for name, each in scored.items()}
    found = {}
    for name, each in scored.items():
        validation = validate_precision(normals, thresholds, name)
        drop = judges.drop_by_kind(each.scores[:count], scored["fp32"].scores[:count])
        found[name] = Precision(
            graph=graph_file(name),
            threshold=thresholds[name],
            tolerance=TOLERANCES[name],
            execution=each.execution,
            validation=validation.model_copy(update={"auroc_drop": drop}),
            kept_in_float=each.kept_in_float,
        )
    return found


def described_graph(graph: InspectionGraph, config: DetectorConfig) -> dict[str, Any]:
    """What the metadata say about all precisions."""
    height, width = height_and_width(graph.size)
    return {
        "model": f"EfficientAD-{config.size}",
        "padding": config.padding,
        "image_size": graph.size,
        "tiles": config.tiles,
        "input": frame_rule(graph),
        "outputs": {
            "anomaly_map": f"f32 [1, 1, {height}, {width}]",
            "score": "f32 [1], the map's maximum",
            "student_map": "as anomaly_map: the scaled student-teacher map, which sees local structure",
            "autoencoder_map": "as anomaly_map: the scaled autoencoder map, which sees the whole part",
        },
        "map_weights": dict(zip(MAPS, graph.model.map_weights.tolist(), strict=True)),
        "threshold_source": config.threshold_source,
    }


def frame_rule(graph: InspectionGraph) -> FrameRule:
    """What frames of a graph look like."""
    return FrameRule(
        name=INPUT,
        type="u8" if graph.levels is None else "u16",
        channels=FRAME_CHANNELS,
        seen=graph.channels,
        levels=graph.file_levels,
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
    number_nodes(model)
    openvino.save_model(model, folder / graph_file("fp32"), compress_to_fp16=False)
    openvino.save_model(model, folder / graph_file("fp16"), compress_to_fp16=True)
    quantised = quantise(openvino.convert_model(onnx_path), calibration)
    number_nodes(quantised)
    openvino.save_model(quantised, folder / graph_file("int8"), compress_to_fp16=False)


def number_nodes(model: openvino.Model) -> None:
    """Number the nodes that OpenVINO has named itself by their order in the graph.

    OpenVINO calls them `Constant_147191`, by a counter of all nodes that the process has made. How many that
    are depends on the timing of its threads, so two exports of one detector would differ.
    """
    numbers: dict[str, int] = {}
    for node in model.get_ordered_ops():
        name = COUNTED.sub(
            lambda found: f"{found['kind']}_{numbers.setdefault(found['count'], len(numbers))}",
            node.get_friendly_name(),
        )
        node.set_friendly_name(name)


def set_thresholds(
    folder: Path, thresholds: Mapping[str, float], source: str, scores: Mapping[str, NDArray[np.float64]]
) -> None:
    """Give an exported bundle other thresholds, in its metadata and graphs; a signature goes.

    The changed bundle is complete before it takes the place of the old one.

    Args:
        folder: the bundle.
        thresholds: by precision.
        source: how they were chosen, in words.
        scores: of the same good images, by precision, for the figures in the metadata.
    """
    folder = folder.resolve()
    content = read_metadata(folder).model_dump(exclude={"sha256"})
    graphs = [described["graph"] for described in content["precisions"].values()]
    rewritten = {Path(graph).with_suffix(suffix).name for graph in graphs for suffix in (".bin", ".xml")}
    with atomic_directory(folder) as changed:
        left_out = shutil.ignore_patterns(METADATA, SIGNATURE, *rewritten)
        shutil.copytree(folder, changed, dirs_exist_ok=True, ignore=left_out)
        for name, described in content["precisions"].items():
            graph = described["graph"]
            write_described(folder / graph, changed / graph, thresholds[name])
            described["threshold"] = thresholds[name]
            kept = {"auroc_drop": described["validation"]["auroc_drop"]}  # no threshold changes it
            described["validation"] = validate_precision(scores, thresholds, name).model_dump() | kept
        write_metadata(changed, content | {"threshold_source": source})


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
