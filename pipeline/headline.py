"""The headline metrics: the few numbers to compare two runs by."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import read_json
from pipeline.main_metrics import METRICS, number

# Name -> (file below metrics/, dotted key in it). `dvc metrics diff` compares only these.
HEADLINE = {
    "images": ("merge", "total"),
    "ssim": ("evaluate_vq", "after.ssim"),
    "edge_iou_1px": ("evaluate_vq", "after.edge_iou_1px"),
    "rkid": ("evaluate_vq", "after.rkid"),
    "masked_ce": ("evaluate_maskgit", "masked_ce"),
    "ce_below_class_unigram": ("evaluate_maskgit", "ce_below_class_unigram"),
    "class_agreement_independent": ("evaluate_synthesis", "class_agreement_independent"),
    "cas_ratio": ("evaluate_synthesis", "cas.ratio"),
    "kid_ratio": ("evaluate_synthesis", "kid.ratio"),
    "block_ratio": ("evaluate_synthesis", "block_ratio"),
    "seam_ratio": ("evaluate_synthesis", "seams.inserted_to_canvas"),
    "teacher_loss": ("distill_teacher", "held_out_loss"),
    "image_auroc": ("evaluate_efficientad", "image_auroc"),
    "au_pro": ("evaluate_efficientad", "au_pro"),
    "memory_bank_image_auroc": ("evaluate_efficientad", "memory_bank.image_auroc"),
    "f1_at_threshold": ("evaluate_efficientad", "f1_at_threshold"),
    "max_abs_error": ("evaluate_openvino", "parity.max_abs_error"),
}

# In the order in which a plant asks: does the detector find defects, are the drawn ones good, and why
WORDS = {
    "image_auroc": "Detector: image AUROC",
    "f1_at_threshold": "Detector: F1 at its threshold",
    "au_pro": "Detector: AU-PRO",
    "memory_bank_image_auroc": "Memory bank, same test: image AUROC",
    "max_abs_error": "Export: largest change of a score",
    "cas_ratio": "Drawn images: CAS ratio",
    "class_agreement_independent": "Drawn images: class agreement",
    "kid_ratio": "Drawn images: KID ratio",
    "block_ratio": "Drawn images: block ratio",
    "seam_ratio": "Insertions: seam ratio",
    "masked_ce": "MaskGIT: masked cross-entropy",
    "ce_below_class_unigram": "MaskGIT: nats below the unigram",
    "ssim": "Tokenizer: SSIM",
    "edge_iou_1px": "Tokenizer: Edge IoU, 1 px",
    "rkid": "Tokenizer: rKID",
    "teacher_loss": "Teacher: held-out loss",
    "images": "Images",
}


def headline_metrics(root: Path) -> dict[str, float]:
    """The headline metrics of the pipeline run in `root`; numbers that were not measured are left out."""
    found = {}
    for name, (file, key) in HEADLINE.items():
        path = root / METRICS / f"{file}.json"
        content = read_json(path) if path.is_file() else {}
        # Statistics with more fields than an interval keep their mean under `mean`
        value = number(content, key)
        value = number(content, f"{key}.mean") if value is None else value
        if value is not None:
            found[name] = value
    return found
