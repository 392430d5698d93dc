"""The demo's named endpoints for programs; docs/demo.md shows how to call each with `gradio_client`.

Images come back as PNG files inside a JSON object with named fields; masks are PNG files of 0 and 255.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np
import torch
from gradio.data_classes import FileData

from app.familiar import Familiarity
from app.paint import remark_on
from app.reading import read_mask_of, read_photograph, read_settings, told
from app.results import new_folder, write_image
from app.studio import (
    Mask,
    Studio,
    decode_from_tokens,
    encode_to_tokens,
    exact_mask,
    inspect_image,
    visualize_mask_on_image,
)
from app.studio import inpaint_image as draw
from metaldefect.errors import UserError
from metaldefect.images import U8

LARGEST_TOKEN = 2**31  # no vocabulary is so large; larger numbers fit no tensor


def png(name: str, image: U8 | Mask) -> dict[str, Any]:
    """An image as a PNG file that the client downloads."""
    path = write_image(new_folder(), name, image)
    return FileData(path=path, orig_name=f"{name}.png", mime_type="image/png").model_dump()


def parse_tokens(tokens: Any) -> torch.Tensor:
    """Token numbers from JSON, `int64 [rows, columns]`.

    Raises:
        UserError: it is not a table of whole numbers.
    """
    numbers = np.asarray(tokens, dtype=object)
    whole = numbers.ndim == 2 and all(isinstance(number, int) for number in numbers.ravel())
    if not whole or any(abs(number) > LARGEST_TOKEN for number in numbers.ravel()):
        raise UserError("tokens must be rows of whole numbers, as encode_to_tokens returns them")
    return torch.tensor(numbers.astype(np.int64))


def build_endpoints(studio: Studio, familiarity: Familiarity | None) -> None:
    """Add the endpoints to the page that is being built; nothing of them is visible."""

    def inpaint_image(
        image: str, mask: str, label: str, seed: str, guidance: float, temperature: float, steps: float
    ) -> dict[str, Any]:
        with told():
            photograph = read_photograph(image, studio.channels, studio.levels)
            settings = read_settings(seed, guidance, temperature, steps)
            marked = read_mask_of(mask, image, photograph.image)
            result = draw(studio, photograph.image, marked, label, settings)
            changed = exact_mask(studio, photograph.image, result)
            found = inspect_image(studio.detector, result).detection
        visible = bool(changed.any())
        remarks = [*photograph.remarks, *remark_on(photograph.image, familiarity)]
        return {
            "image": png("image", result),
            "mask": png("mask", changed),
            "visible": visible,
            "score": round(found.score, 6),
            "threshold": round(studio.detector.threshold, 6),
            "is_defective": bool(found.is_anomalous),
            "remarks": remarks if visible else [*remarks, "Nothing visible was drawn: the mask is empty."],
        }

    def encode(image: str) -> dict[str, Any]:
        with told():
            tokens = encode_to_tokens(studio, read_photograph(image, studio.channels, studio.levels).image)
        return {"tokens": tokens.tolist(), "vocabulary": len(studio.painter.vocabulary.codes)}

    def decode(tokens: Any, light: str) -> dict[str, Any]:
        with told():
            image = decode_from_tokens(
                studio, parse_tokens(tokens), read_photograph(light, studio.channels, studio.levels).image
            )
        return {"image": png("image", image)}

    def visualize(image: str, mask: str) -> dict[str, Any]:
        with told():
            shown = read_photograph(image, studio.channels, studio.levels).image
            return {"image": png("image", visualize_mask_on_image(shown, read_mask_of(mask, image, shown)))}

    with gr.Column(visible=False):
        image, mask, light = gr.File(label="image"), gr.File(label="mask"), gr.File(label="light")
        label, seed = gr.Textbox(label="label"), gr.Textbox("0", label="seed")
        guidance = gr.Number(2.0, label="guidance")
        temperature, steps = gr.Number(0.7, label="temperature"), gr.Number(16, label="steps")
        tokens, result = gr.JSON(label="tokens"), gr.JSON(label="result")
    numbers = [label, seed, guidance, temperature, steps]
    endpoints = (
        (inpaint_image, "inpaint_image", [image, mask, *numbers], "Draw a defect of a class under a mask."),
        (encode, "encode_to_tokens", [image], "Encode an image to its tokens."),
        (decode, "decode_from_tokens", [tokens, light], "Decode tokens with the light of an image."),
        (visualize, "visualize_mask_on_image", [image, mask], "Tint a mask red on its image."),
    )
    for function, name, inputs, description in endpoints:
        gr.Button(visible=False).click(
            function,
            inputs,
            result,
            api_name=name,
            api_description=description,
            concurrency_id="models",
        )
