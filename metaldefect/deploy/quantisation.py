"""INT8: plain quantisation after training, and accuracy control where the plain one loses too much."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from metaldefect.images import U8
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.painted import paint_defects
from metaldefect.inspection.provider import InspectionImage

Frame = NDArray[Any]
DEFECTS = 52  # painted: each kind twice, strong and faint
RANKING_FRAMES = 32
DRAWS = 500  # of the bootstrap
# Image AUROC that INT8 may lose against FP32: half a point
MAX_AUROC_DROP = 0.005
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


@dataclass(frozen=True)
class Judges:
    """Validation images that tell what a precision costs.

    Attributes:
        normals: good images that no training used, `uint8 [N, H, W]` or `[N, H, W, 3]`.
        defects: images with a painted defect, `uint8 [M, H, W]` or `[M, H, W, 3]`.
        kinds: of each defect.
    """

    normals: U8
    defects: Sequence[U8]
    kinds: Sequence[str]

    @classmethod
    def of(cls, normals: U8, seed: int = 0, count: int = DEFECTS) -> Judges:
        """Paint defects of every kind onto good images; none if so few images could not tell half a point."""
        if len(normals) * count * MAX_AUROC_DROP < 2:
            return cls(normals, [], [])
        size = (normals.shape[1], normals.shape[2])
        canvases = [
            InspectionImage(image, None, GOOD, str(number), str(number))
            for number, image in enumerate(normals)
        ]
        painted = paint_defects(canvases, size, count, seed)
        return cls(normals, [item.image for item in painted], [item.label for item in painted])

    @property
    def images(self) -> list[U8]:
        """The good ones, then those with a defect."""
        return [*self.normals, *self.defects]

    def drop(self, scores: ArrayLike, reference: ArrayLike) -> float:
        """Image AUROC that scores of `images` lose against reference scores."""
        return self.auroc(reference) - self.auroc(scores)

    def sure_drop(self, scores: ArrayLike, reference: ArrayLike) -> float:
        """What is lost at least: the lower end of the 95 % interval of `drop`.

        Few images tell half a point by chance alone; the bootstrap draws good images and defects, each with
        both of its scores.
        """
        count, rng = len(self.normals), np.random.default_rng(0)
        pairs = np.stack([np.asarray(scores, np.float64), np.asarray(reference, np.float64)])
        drops = []
        for _ in range(DRAWS):
            good = rng.integers(0, count, count)
            bad = count + rng.integers(0, len(self.defects), len(self.defects))
            drawn = pairs[:, np.concatenate([good, bad])]
            drops.append(self.auroc(drawn[1]) - self.auroc(drawn[0]))
        return float(np.quantile(drops, 0.025))

    def drop_by_kind(self, scores: ArrayLike, reference: ArrayLike) -> dict[str, float]:
        """`drop` of each kind of defect against all good images."""
        return {
            kind: self.auroc(reference, kind) - self.auroc(scores, kind) for kind in sorted(set(self.kinds))
        }

    def auroc(self, scores: ArrayLike, kind: str | None = None) -> float:
        """Image AUROC of the defects, or of those of one kind, against the good images."""
        normals, defects = np.split(np.asarray(scores, np.float64), [len(self.normals)])
        if kind is not None:
            defects = defects[np.asarray(self.kinds) == kind]
        labels = [False] * len(normals) + [True] * len(defects)
        return float(roc_auc_score(labels, [*normals, *defects]))


def quantise(model: Any, calibration: Sequence[Frame]) -> Any:
    """Quantise the graph's convolutions to INT8 after training; ranges cover every calibration image.

    NNCF's default range, the mean of the images' extremes, clips unusual values, which are just what a
    detector looks for: defects then score no higher than some normal images.

    Args:
        model: the OpenVINO graph.
        calibration: frames `[H, W, C]` that set the ranges.
    """
    import nncf

    return nncf.quantize(
        model, dataset_of(calibration), **settings(calibration), advanced_parameters=full_ranges()
    )


def quantise_with_control(
    model: Any,
    calibration: Sequence[Frame],
    frames: Sequence[Frame],
    judges: Judges,
    max_drop: float = MAX_AUROC_DROP,
) -> Any:
    """As `quantise`, but the convolutions that cost most stay in floating point, until no more is lost.

    Args:
        model: the OpenVINO graph, whose output `score` counts.
        calibration: frames that set the ranges.
        frames: `judges.images` as the graph takes them.
        judges: say how well defects are found.
        max_drop: image AUROC that may be lost.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedAccuracyRestorerParameters

    reference: list[float] = []  # the scores of the graph as it is, which NNCF asks for first

    def kept_auroc(compiled: Any, batches: Iterable[Frame]) -> tuple[float, None]:
        scores = [float(compiled(batch)["score"][0]) for batch in batches]
        if len(scores) < len(frames):
            # NNCF tries one image to find out whether images have a metric of their own; they have none
            raise ValueError("an AUROC needs all images")
        reference[:] = reference or scores
        return 1.0 - judges.drop(scores, reference), None  # NNCF divides by the first value

    return nncf.quantize_with_accuracy_control(
        model,
        dataset_of(calibration),
        dataset_of(frames),
        kept_auroc,
        max_drop=max_drop,
        **settings(calibration),
        advanced_quantization_parameters=full_ranges(),
        advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
            ranking_subset_size=min(RANKING_FRAMES, len(frames)), num_ranking_workers=1
        ),
    )


def dataset_of(frames: Sequence[Frame]) -> Any:
    """Frames `[H, W, C]` as NNCF takes them."""
    import nncf

    return nncf.Dataset([frame[None] for frame in frames])


def settings(calibration: Sequence[Frame]) -> dict[str, Any]:
    """What plain and controlled quantisation share."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    ignored = nncf.IgnoredScope(types=list(NOT_QUANTISED), validate=False)
    return {"subset_size": len(calibration), "ignored_scope": ignored}


def full_ranges() -> Any:
    """Ranges of activations from their smallest to their largest value."""
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
    )


def kept_in_float(model: Any) -> list[str]:
    """Names of the convolutions that an INT8 graph computes in floating point, by how it stores weights."""
    return [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "Convolution" and stored_bits(operation.input_value(1).get_node()) > 8
    ]


def stored_bits(weights: Any) -> int:
    """Bits per stored weight, behind what turns them into floats."""
    while weights.get_type_name() != "Constant":
        weights = weights.input_value(0).get_node()
    return int(weights.get_element_type().bitwidth)
