"""The commands `draw`, `insert` and `review` as functions; README.md shows an example."""

from metaldefect.commands.draw import draw
from metaldefect.commands.insert import Summary, insert
from metaldefect.commands.insert_settings import DrawSettings, InsertSettings
from metaldefect.commands.review import drop_images

__all__ = ["DrawSettings", "InsertSettings", "Summary", "draw", "drop_images", "insert"]
