"""The Gradio page: paint a mask on metal, choose a class, and see the defect and the detector's verdict.

`python -m app.demo` (or `make demo`) serves the page on 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
import numpy as np

from app.inpainting import Studio, heat_map, inpaint_image, read_square, visualize_mask_on_image
from metaldefect.errors import UserError, exit_on_user_error
from metaldefect.images import U8

Drawing = dict[str, Any]


def painted_mask(drawing: Drawing) -> np.ndarray:
    """The painted mask, `bool [H, W]`: pixels that the editor's layers cover or its composite changes.

    Raises:
        gr.Error: no image, or nothing painted.
    """
    background, composite = drawing.get("background"), drawing.get("composite")
    if background is None:
        raise gr.Error("Choose or drop an image first.")
    mask = np.zeros(np.asarray(background).shape[:2], bool)
    for layer in drawing.get("layers") or []:
        alpha = np.asarray(layer)
        mask |= (alpha[..., -1] if alpha.ndim == 3 else alpha) > 0
    if composite is not None and np.shape(composite) == np.shape(background):
        difference = np.asarray(composite, np.int16) - np.asarray(background, np.int16)
        mask |= (np.abs(difference) > 0).reshape(*mask.shape, -1).any(axis=-1)
    if not mask.any():
        raise gr.Error("Paint a mask on the image first.")
    return mask


def grey_background(drawing: Drawing) -> U8:
    """The editor's picture in grey, `uint8 [H, W]`.

    Raises:
        gr.Error: no image.
    """
    background = drawing.get("background")
    if background is None:
        raise gr.Error("Choose or drop an image first.")
    colour = np.asarray(background)
    if colour.ndim == 2:
        return colour.astype(np.uint8)
    return np.rint(colour[..., :3].mean(axis=-1)).astype(np.uint8)


def build(studio: Studio) -> gr.Blocks:
    """Build the page."""
    size = studio.painter.image_size
    classes = list(studio.painter.classes)
    examples = [read_square(path, size) for path in studio.examples()]

    def draw(
        drawing: Drawing, label: str, seed: float, guidance: float, temperature: float
    ) -> tuple[U8, U8, U8, str]:
        image, mask = grey_background(drawing), painted_mask(drawing)
        try:
            result = inpaint_image(
                studio, image, mask, label, seed=int(seed), guidance=guidance, temperature=temperature
            )
        except UserError as error:
            raise gr.Error(str(error)) from error
        heat, detection = heat_map(studio, result)
        verdict = "**defective**" if detection.is_anomalous else "**good**"
        words = f"Detector: {verdict}, score {detection.score:.3f}, threshold {studio.detector.threshold:.3f}"
        return visualize_mask_on_image(image, mask), result, heat, words

    with gr.Blocks(title="Metal-defect synthesis") as page:
        gr.Markdown(
            "# Metal-defect synthesis\n"
            "Choose a defect-free image (or drop your own), paint where the defect should go, "
            "and choose its class."
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=420):
                editor = gr.ImageEditor(
                    value=examples[0] if examples else None,
                    type="numpy",
                    image_mode="RGBA",
                    label="Image and mask",
                    brush=gr.Brush(default_size=14, colors=["#ff1e1e"], color_mode="fixed"),
                    layers=False,
                    height=480,
                )
                gallery = gr.Gallery(
                    value=[(image, f"normal {i + 1}") for i, image in enumerate(examples)],
                    label="Defect-free images",
                    columns=6,
                    height=150,
                    allow_preview=False,
                )
            with gr.Column(scale=2, min_width=260):
                label = gr.Dropdown(classes, value=classes[-1], label="Defect class")
                seed = gr.Number(0, precision=0, label="Seed (each seed draws another defect)")
                guidance = gr.Slider(
                    0.0, 4.0, 2.0, step=0.25, label="Guidance (how strongly the class counts)"
                )
                temperature = gr.Slider(0.3, 1.5, 0.7, step=0.05, label="Temperature (variety)")
                button = gr.Button("Draw the defect", variant="primary")
                words = gr.Markdown()
        with gr.Row():
            masked = gr.Image(label="Mask", interactive=False)
            drawn = gr.Image(label="Drawn defect", interactive=False)
            heat = gr.Image(label="Detector's heat map", interactive=False)

        def choose(event: gr.SelectData) -> U8:
            return examples[event.index]

        gallery.select(choose, None, editor)
        button.click(draw, [editor, label, seed, guidance, temperature], [masked, drawn, heat, words])
    return page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.demo", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("."), help="folder of the pipeline (default: here)")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    with exit_on_user_error("demo"):
        page = build(Studio(args.root))
    page.launch(server_name="127.0.0.1", server_port=args.port, share=False)


if __name__ == "__main__":
    main()
