"""The tabs Generate, Reconstruct, Inspect and Compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np

from app.familiar import Familiarity
from app.paint import number_fields, picture, remark_on, verdict_line
from app.reading import read_photograph, read_settings, read_whole_number, told
from app.results import images_zip, new_folder
from app.studio import (
    Studio,
    decode_from_tokens,
    encode_to_tokens,
    generate_images,
    inspect_image,
)
from metaldefect.deploy.runtime import Detector, overlay
from metaldefect.images import U8, resize
from metaldefect.metrics.reconstruction import edge_iou, edges, ssim

MOST_IMAGES = 9


def upload_field(studio: Studio, name: str) -> Any:
    """A field for an image file, with examples from the last run."""
    field = gr.File(label="An image: PNG, JPEG, TIFF or BMP", height=150, elem_id=name)
    examples = [str(path) for path in studio.examples()]
    if examples:
        gr.Examples(examples, field, label="Good images of this run", cache_examples=False)
    return field


def build_generate_tab(studio: Studio) -> None:
    """Whole images of a class, in a grid."""

    def generate(
        label: str,
        seed: str,
        guidance: float,
        temperature: float,
        steps: float,
        count: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        with told():
            settings = read_settings(seed, guidance, temperature, steps)
            number = read_whole_number(count, "images")
            progress(0.1, f"drawing {number} images")
            images = generate_images(studio, label, number, settings)
        archive = images_zip(new_folder(), images, label, settings)
        shown = [(image, f"{label} {number}") for number, image in enumerate(images, 1)]
        return shown, gr.DownloadButton(value=archive, interactive=True)

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            fields = number_fields(studio, "generate")
            count = gr.Slider(1, MOST_IMAGES, MOST_IMAGES, step=1, label="Images", elem_id="generate-count")
            button = gr.Button("Draw images", variant="primary", elem_id="generate")
        with gr.Column(scale=3, min_width=320):
            grid = gr.Gallery(
                label="Drawn images", columns=3, format="png", buttons=["download"], elem_id="grid"
            )
            download = gr.DownloadButton("All as zip", interactive=False, elem_id="get-images")
    button.click(
        generate, [*fields, count], [grid, download], concurrency_id="models", api_visibility="private"
    )


def build_reconstruct_tab(studio: Studio, familiarity: Familiarity | None) -> None:
    """Image to tokens to image: what the tokenizer keeps."""

    def reconstruct(path: str | None) -> tuple[Any, ...]:
        if path is None:  # the file was removed from its field
            return "", *[None] * 4, gr.DownloadButton(value=None, interactive=False)
        with told():
            photograph = read_photograph(path, studio.channels, studio.levels)
            original = resize(photograph.image, studio.painter.image_size)
            tokens = encode_to_tokens(studio, original)
            again = decode_from_tokens(studio, tokens, original)
        words = [
            f"SSIM **{ssim(again, original):.3f}**, Edge IoU **{edge_iou(again, original):.3f}** "
            f"(within one pixel {edge_iou(again, original, 1):.3f}); {tokens.numel()} tokens, "
            f"{len(set(tokens.flatten().tolist()))} different ones.",
            *photograph.remarks,
            *remark_on(photograph.image, familiarity),
        ]
        file = new_folder() / "tokens.json"
        file.write_text(json.dumps(tokens.tolist()), encoding="utf-8")
        drawn = [np.where(edges(image), np.uint8(255), np.uint8(0)) for image in (original, again)]
        return (
            "\n\n".join(words),
            original,
            again,
            *drawn,
            gr.DownloadButton(value=str(file), interactive=True),
        )

    field = upload_field(studio, "reconstruct-file")
    words = gr.Markdown(elem_id="reconstruct-words")
    with gr.Row():
        kinds = ("Original", "Through the tokens", "Edges of the original", "Edges after")
        images = [picture(label, f"reconstruct-{number}") for number, label in enumerate(kinds)]
    download = gr.DownloadButton("Tokens (JSON)", interactive=False, elem_id="get-tokens")
    field.change(
        reconstruct,
        field,
        [words, *images, download],
        concurrency_id="models",
        api_visibility="private",
    )


def decision(score: float, threshold: float) -> str:
    """The decision for a score at a threshold."""
    word = "DEFECTIVE" if score > threshold else "GOOD"
    return f"## {word}\nscore {score:.3f}, threshold {threshold:.3f}"


def build_inspect_tab(studio: Studio, familiarity: Familiarity | None) -> None:
    """The detector on an image, with a threshold that can be moved."""

    def inspect(path: str | None, threshold: float) -> tuple[Any, ...]:
        if path is None:  # the file was removed from its field
            return None, *show(None, threshold), ""
        with told():
            photograph = read_photograph(path, studio.detector.channels, studio.levels)
            verdict = inspect_image(studio.detector, photograph.image)
        notes = [*remark_on(photograph.image, familiarity), *photograph.remarks]
        notes.append(f"{verdict.milliseconds:.0f} ms for this image, {studio.detector.precision.upper()}")
        found = (photograph.image, verdict.detection.anomaly_map, verdict.detection.score)
        return found, *show(found, threshold), "\n\n".join(notes)

    def show(found: tuple[U8, Any, float] | None, threshold: float) -> tuple[str, Any]:
        if found is None:
            return "", None
        image, anomaly_map, score = found
        return decision(score, threshold), overlay(image, anomaly_map, threshold)

    state = gr.State(None)
    calibrated = studio.detector.threshold
    with gr.Row():
        with gr.Column(min_width=280):
            field = upload_field(studio, "inspect-file")
            slider = gr.Slider(
                0.0, max(1.0, 3 * calibrated), calibrated, step=0.001, label="Threshold",
                info=f"Calibrated: {calibrated:.3f}", elem_id="threshold",
            )  # fmt: skip
            word = gr.Markdown(elem_id="decision")
            notes = gr.Markdown(elem_id="inspect-words")
        with gr.Column(min_width=280):
            heat = picture("Heat map", "heat")
    field.change(
        inspect,
        [field, slider],
        [state, word, heat, notes],
        concurrency_id="models",
        api_visibility="private",
    )
    slider.change(
        show, [state, slider], [word, heat], show_progress="hidden", queue=False, api_visibility="private"
    )


def compare_detectors(
    studio: Studio, familiarity: Familiarity | None, path: str | None, names: Sequence[str]
) -> tuple[list[str], list[tuple[U8, str]]]:
    """What each detector says about an image file.

    Args:
        studio: the models; `names` are keys of its `detectors`.
        familiarity: with the training images.
        path: the image.
        names: of the detectors.

    Returns:
        The remarks that the tab Inspect makes, each once; and for each detector its heat map
        `uint8 [H, W, 3]` and its verdict in words.

    Raises:
        UserError: no image, a file that is none, or a detector that cannot be loaded.
    """
    remarks: dict[str, None] = {}  # in order: detectors of grey and of colours change an image differently
    found = []
    for name in names:
        detector = Detector.load(*studio.detectors[name])
        photograph = read_photograph(path, detector.channels, detector.levels)
        remarks |= dict.fromkeys([*remark_on(photograph.image, familiarity), *photograph.remarks])
        inspect_image(detector, photograph.image)  # the first also sets up memory: time the second
        verdict = inspect_image(detector, photograph.image)
        line = f"{name}: {verdict_line(verdict, detector.threshold)}, {verdict.milliseconds:.0f} ms"
        found.append((verdict.heat_map, line))
    return list(remarks), found


def build_compare_tab(studio: Studio, familiarity: Familiarity | None) -> None:
    """Two detectors on one image."""
    names = list(studio.detectors)

    def compare(path: str | None, first: str, second: str) -> tuple[Any, ...]:
        with told():
            remarks, (one, other) = compare_detectors(studio, familiarity, path, (first, second))
        return "\n\n".join(remarks), *one, *other

    field = upload_field(studio, "compare-file")
    remarks = gr.Markdown(elem_id="compare-words")
    with gr.Row():
        columns = []
        for number, name in enumerate((names[0], names[-1])):
            with gr.Column(min_width=280):
                choice = gr.Dropdown(names, value=name, label="Detector")
                heat = picture("Heat map", f"compare-{number}")
                columns.append((choice, heat, gr.Markdown(elem_id=f"compare-verdict-{number}")))
    (first, heat, words), (second, other_heat, other_words) = columns
    gr.Button("Compare", variant="primary", elem_id="compare").click(
        compare,
        [field, first, second],
        [remarks, heat, words, other_heat, other_words],
        concurrency_id="models",
        api_visibility="private",
    )
