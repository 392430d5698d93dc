"""The question that a run asks, its answer by stated rules, and what the numbers say is not good yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.main_metrics import formatted
from pipeline.report.numbers import Estimate, Metrics, share

QUESTION = "Can drawn defects replace the ones we have too few of?"

# From this share of the accuracy that training images give, drawn ones count as an equal or a help
EQUAL, HELPFUL = 0.9, 0.6
# A class of drawn images that an independent classifier recognises less often than this is named
CLASS_LIMIT = 0.5


@dataclass(frozen=True)
class Answer:
    """The answer in one word, and three lines that say what it rests on."""

    verdict: str
    kind: Literal["good", "middling", "bad", ""]
    lines: list[str]


def answer(metrics: Metrics, procedural: bool) -> Answer:
    """Answer the question from the metrics; a line says so where its numbers have not been measured."""
    ratio = metrics.value("evaluate_synthesis", "cas.ratio")
    lines = [detector_line(metrics, procedural), drawing_line(metrics), help_line(metrics)]
    if ratio is None:
        return Answer("Not measured yet", "", lines)
    if ratio >= EQUAL:
        return Answer("Yes", "good", lines)
    return Answer("In part", "middling", lines) if ratio >= HELPFUL else Answer("Not yet", "bad", lines)


def detector_line(metrics: Metrics, procedural: bool) -> str:
    """What the detector finds, its false alarms, and whether a memory bank is better."""
    found = metrics.value("evaluate_efficientad", "detection_rate")
    alarms = metrics.value("evaluate_efficientad", "false_alarm_rate")
    counts = metrics.mapping("evaluate_efficientad", "images")
    if found is None or alarms is None:
        return "The detector: not measured yet."
    bad, good = int(counts["defective"]), int(counts["good"])
    kind = "procedural" if procedural else "real"
    use = metrics.mapping("evaluate_efficientad", "memory_bank").get("use")
    better = " A memory bank, which needs no training, is better today." if use == "memory bank" else ""
    return (
        f"The detector finds {round(found * bad)} of {bad} {kind} test defects and raises a false alarm on "
        f"{round(alarms * good)} of {good} good images.{better}"
    )


def drawing_line(metrics: Metrics) -> str:
    """How often a classifier that never saw drawn images recognises them."""
    agreement = metrics.estimate("evaluate_synthesis", "class_agreement_independent")
    real = metrics.value("evaluate_synthesis", "judge_accuracy_on_real")
    if agreement is None:
        return "The drawn images: not measured yet."
    known = f" (test images: {share(real)})" if real is not None else ""
    return (
        f"Of the drawn images, an independent classifier takes {agreement.as_percent()} for the class that "
        f"they were drawn as{known}."
    )


def help_line(metrics: Metrics) -> str:
    """What a classifier learns from drawn images alone."""
    accuracy = metrics.estimate("evaluate_synthesis", "cas.accuracy")
    ratio = metrics.value("evaluate_synthesis", "cas.ratio")
    if accuracy is None or not ratio:
        return "Whether drawn images help: not measured yet."
    real = accuracy.value / ratio
    return (
        f"A classifier trained on drawn images alone is right on {accuracy.as_percent()} of the test images; "
        f"trained on the training images, on {share(real)}."
    )


@dataclass(frozen=True)
class Rule:
    """A number that a run should reach; below (or above) it, the page says what is not good.

    `file` and `key` as in `Metrics.estimate`.
    """

    file: str
    key: str
    limit: float
    sense: Literal["at least", "at most"]
    weakness: str
    remedy: str
    unit: Literal["share", "number", "count"] = "share"

    def text(self, estimate: Estimate) -> str:
        """A number in the rule's unit, with its interval if it has one."""
        if self.unit == "count":
            return formatted(round(estimate.value))
        return estimate.as_percent() if self.unit == "share" else estimate.as_number()

    def is_broken(self, value: float) -> bool:
        """Whether a value is on the wrong side of the limit."""
        return value < self.limit if self.sense == "at least" else value > self.limit


RULES = (
    Rule(
        "evaluate_vq",
        "after.edge_iou_1px",
        0.6,
        "at least",
        "Reconstruction loses fine structure: too few thin edges are where they were.",
        "Train the tokenizer for longer or with more codes (finetune_vq).",
    ),
    Rule(
        "evaluate_synthesis",
        "class_agreement_independent",
        0.8,
        "at least",
        "Drawn images often do not look like their class.",
        "Train MaskGIT for longer, or go on from more metal (metaldefect pretrain maskgit).",
    ),
    Rule(
        "evaluate_synthesis",
        "cas.ratio",
        EQUAL,
        "at least",
        "Drawn images teach a classifier less than the training images do.",
        "Use them beside the training images, not instead of them.",
    ),
    Rule(
        "evaluate_synthesis",
        "recall",
        0.3,
        "at least",
        "Drawn images are less varied than test images: recall, the share of these that lie among them.",
        "Raise synthesize.candidates.temperature, or train on more images.",
    ),
    Rule(
        "evaluate_synthesis",
        "realism.insertion_realism_auroc",
        0.75,
        "at most",
        "Inserted defects can be told from the test set's own (AUROC; 0.5 is perfect).",
        "metaldefect insert --method transplant moves your own masked defects instead.",
        unit="number",
    ),
    Rule(
        "evaluate_synthesis",
        "seams.inserted_to_canvas",
        1.2,
        "at most",
        "Insertions show their border: it is steeper than the same place before (ratio; 1 is no seam).",
        "Raise synthesize.feather.",
        unit="number",
    ),
    Rule(
        "evaluate_efficientad",
        "detection_rate",
        0.95,
        "at least",
        "The detector misses defects.",
        "Train it for longer (train_efficientad.steps) or raise calibrate.false_alarms.",
    ),
    Rule(
        "evaluate_efficientad",
        "false_alarm_rate",
        0.02,
        "at most",
        "The detector stops good metal.",
        "Give it more normal images, or lower calibrate.false_alarms.",
    ),
    Rule(
        "evaluate_efficientad",
        "au_pro",
        0.8,
        "at least",
        "Heat maps mark defects only roughly (AU-PRO).",
        "Train the detector at a higher train_efficientad.image_size.",
        unit="number",
    ),
    Rule(
        "evaluate_efficientad",
        "generated.detection_rate",
        0.8,
        "at least",
        "The detector misses many inserted defects: they are faint, or it is blind to them.",
        "Look at the insertions above: if you see the defect, the detector should too.",
    ),
    Rule(
        "evaluate_efficientad",
        "images.good",
        100,
        "at least",
        "Few good test images: one false alarm more or less changes the rate visibly.",
        "Add good images of other days to the test set.",
        unit="count",
    ),
    Rule(
        "latency",
        "fp16.p50_ms",
        100,
        "at most",
        "The FP16 detector is slow on this machine (median, ms per image).",
        "Use the INT8 model where its accuracy suffices, or a faster machine.",
        unit="number",
    ),
)


@dataclass(frozen=True)
class Weakness:
    """A rule that a run broke, with the number that broke it."""

    text: str
    measured: str
    wanted: str
    remedy: str


def weaknesses(metrics: Metrics, rules: tuple[Rule, ...] = RULES) -> list[Weakness]:
    """Every rule that the run's numbers break, in the order of the rules; unmeasured numbers break none."""
    found = []
    for rule in rules:
        estimate = metrics.estimate(rule.file, rule.key)
        if estimate is None or not rule.is_broken(estimate.value):
            continue
        low = weak_classes(metrics.mapping(rule.file, rule.key).get("per_class") or {})
        text = f"{rule.weakness} Below {share(CLASS_LIMIT)}: {', '.join(low)}." if low else rule.weakness
        limit = f"{rule.sense} {rule.text(Estimate(rule.limit))}"
        found.append(Weakness(text, rule.text(estimate), limit, rule.remedy))
    return found


def weak_classes(per_class: Mapping[str, float]) -> list[str]:
    """Classes below `CLASS_LIMIT`, lowest first, as `crazing 0 %`."""
    low = sorted((value, name) for name, value in per_class.items() if value < CLASS_LIMIT)
    return [f"{name.replace('_', ' ')} {share(value)}" for value, name in low]


def left_out(metrics: Metrics, files: list[str]) -> list[tuple[str, str]]:
    """(what could not be measured, why) of all given metrics files."""
    found = []
    for file in files:
        reasons = metrics.content(file).get("left_out")
        if isinstance(reasons, Mapping):
            found += [(str(what).replace("_", " "), str(why)) for what, why in reasons.items()]
    return found
