"""A page that takes files, but never fetches one from an address that a request names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like

ADDRESS_REFUSED = "Send the file itself, not its address."


class LocalPage(gr.Blocks):
    """`gr.Blocks` whose inputs hold no file by its http or https address.

    Gradio downloads such a file before a component sees it, for every kind of component (`gr.JSON` too), so
    that anyone who reaches the page could make its machine ask other machines. So the page itself looks at
    all inputs of a request first, and refuses it with a `gr.Error`.
    """

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        if any(map(is_http_url_like, paths_in(inputs))):
            raise gr.Error(ADDRESS_REFUSED, title="This does not work")
        return list(await super().preprocess_data(block_fn, inputs, state, explicit_call))


def paths_in(content: Any) -> Iterator[Any]:
    """What any dictionary in JSON content, at any depth, holds as `path`: Gradio's files have one."""
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "path" in item:
                yield item["path"]
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item
