"""The tab Paint a defect: a mask on a good image becomes a defect, and the detector judges both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from app.familiar import Familiarity
from app.reading import painted_mask, read_photograph, read_settings, told
from app.results import mvtec_zip, new_folder, write_animation, write_image
from app.studio import (
    Drawing,
    Settings,
    Studio,
    Verdict,
    draw_defect,
    inspect_image,
    visualize_mask_on_image,
)
from metaldefect.images import U8, as_channels, read_image

NOTHING_VISIBLE = (
    "**Nothing visible was drawn.** Another seed, a larger mask, or more guidance usually helps; the exact "
    "mask is empty, the detector has nothing to find, and there is nothing to download."
)
UNLIKE = (
    "**This image is unlike anything that the models were trained on**, so neither the drawing nor the "
    "detector's verdict can be relied on."
)


SHOWN = (
    (("Original", "original"), ("Drawn defect", "drawn"), ("Your mask", "masked"), ("Exact mask", "exact")),
    (("Tokens being drawn", "tokens"), ("Heat map before", "before"), ("Heat map after", "after")),
)


def picture(label: str, name: str) -> Any:
    """An image that the page shows, exact to the pixel; Gradio's button to share it would send it away."""
    return gr.Image(
        label=label,
        interactive=False,
        format="png",
        min_width=220,
        buttons=["download", "fullscreen"],
        elem_id=name,
    )


def verdict_line(verdict: Verdict, threshold: float) -> str:
    """The detector's decision with its numbers."""
    decision = "defective" if verdict.detection.is_anomalous else "good"
    return f"**{decision}**, score {verdict.detection.score:.3f} (threshold {threshold:.3f})"


def canvas(image: U8) -> Any:
    """The editor's value for an image `uint8 [H, W]` or `[H, W, 3]`, with nothing painted."""
    background = as_channels(image, 3)
    return {"background": background, "layers": [], "composite": background}


def number_fields(studio: Studio, tab: str) -> list[Any]:
    """A tab's fields class, seed, guidance, temperature and steps, in the order of `read_settings`."""
    classes = list(studio.painter.classes)
    return [
        gr.Dropdown(classes, value=classes[-1], label="Defect class"),
        gr.Textbox(
            "0", label="Seed", info="Each seed draws another defect.", max_lines=1, elem_id=f"{tab}-seed"
        ),
        gr.Slider(0.0, 4.0, 2.0, step=0.25, label="Guidance", info="How strongly the class counts."),
        gr.Slider(0.3, 1.5, 0.7, step=0.05, label="Temperature", info="Higher is more varied."),
        gr.Slider(
            1, 32, 16, step=1, label="Steps", info="Passes in which tokens are drawn.", elem_id=f"{tab}-steps"
        ),
    ]


def remark_on(image: U8, familiarity: Familiarity | None) -> list[str]:
    """What to know about an image before believing results on it."""
    return [UNLIKE] if familiarity is not None and familiarity.is_unlike(image) else []


def offered_files(folder: Path, image: U8, drawn: Drawing, label: str, settings: Settings) -> list[Any]:
    """The buttons that download image, exact mask and zip; all empty if nothing visible was drawn.

    Without a visible change the image would be a good one with an empty mask, filed as a defect.
    """
    if not drawn.changed.any():
        return [gr.DownloadButton(value=None, interactive=False) for _ in range(3)]
    files = [
        write_image(folder, "image", drawn.image),
        write_image(folder, "mask", drawn.changed),
        mvtec_zip(folder, image, drawn, label, settings),
    ]
    return [gr.DownloadButton(value=file, interactive=True) for file in files]


def build_paint_tab(studio: Studio, familiarity: Familiarity | None) -> None:
    """Add the tab's components to the page that is being built."""

    def open_file(path: str | None) -> tuple[dict[str, Any], U8, str]:
        with told():
            photograph = read_photograph(path, studio.channels, studio.levels)
        remarks = [*photograph.remarks, *remark_on(photograph.image, familiarity)]
        return canvas(photograph.image), photograph.image, "\n\n".join(remarks)

    def choose(event: gr.SelectData) -> tuple[dict[str, Any], U8, str]:
        image = read_image(examples[event.index], studio.channels)
        return canvas(image), image, ""

    def draw(
        image: U8 | None,
        drawing: dict[str, Any] | None,
        label: str,
        seed: str,
        guidance: float,
        temperature: float,
        steps: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by its default)
    ) -> tuple[Any, ...]:
        with told():
            settings = read_settings(seed, guidance, temperature, steps)
            mask = painted_mask(drawing, image)
            assert image is not None
            progress(0.1, "drawing tokens")
            drawn = draw_defect(studio, image, mask, label, settings)
            progress(0.6, "the detector looks at both")
            before, after = (inspect_image(studio.detector, picture) for picture in (image, drawn.image))
        folder, threshold = new_folder(), studio.detector.threshold
        words = [
            f"Before: {verdict_line(before, threshold)}. After: {verdict_line(after, threshold)}.",
            f"{int(drawn.changed.sum()):,} pixels changed visibly; no pixel changed farther than "
            f"{settings.feather:g} pixels from your mask.",
        ]
        if not drawn.changed.any():
            words.insert(0, NOTHING_VISIBLE)
        return (
            "\n\n".join([*remark_on(image, familiarity), *words]),
            image,
            drawn.image,
            visualize_mask_on_image(image, mask),
            visualize_mask_on_image(drawn.image, drawn.changed),
            write_animation(folder, drawn.steps),
            before.heat_map,
            after.heat_map,
            *offered_files(folder, image, drawn, label, settings),
        )

    examples = studio.examples()
    first = read_image(examples[0], studio.channels) if examples else None
    state = gr.State(first)
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            editor = gr.ImageEditor(
                value=None if first is None else canvas(first),
                sources=(),
                type="numpy",
                format="png",
                label="Paint where the defect should go",
                brush=gr.Brush(default_size=14, colors=["#ff1e1e"], color_mode="fixed"),
                transforms=(),
                layers=False,
                height=460,
                elem_id="editor",
            )
            gallery = gr.Gallery(
                [str(path) for path in examples],
                label="Good images of this run: click one",
                columns=6,
                height=130,
                allow_preview=False,
                buttons=[],
            )
            upload = gr.File(label="Or your own image: PNG, JPEG, TIFF or BMP", height=150, elem_id="upload")
        with gr.Column(scale=2, min_width=280):
            fields = number_fields(studio, "paint")
            button = gr.Button("Draw the defect", variant="primary", elem_id="draw")
            words = gr.Markdown(elem_id="words")
    images = []
    for kinds in SHOWN:
        with gr.Row():
            images += [picture(label, name) for label, name in kinds]
    with gr.Row():
        downloads = [
            gr.DownloadButton(label, interactive=False, elem_id=name)
            for label, name in (
                ("Image (PNG)", "get-image"), ("Exact mask (PNG)", "get-mask"), ("MVTec zip", "get-zip"),
            )
        ]  # fmt: skip
    shown = [editor, state, words]
    gallery.select(choose, None, shown, api_visibility="private")
    upload.upload(open_file, upload, shown, api_visibility="private")
    button.click(
        draw,
        [state, editor, *fields],
        [words, *images, *downloads],
        concurrency_id="models",
        api_visibility="private",
    )
