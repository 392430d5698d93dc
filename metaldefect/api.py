"""The commands `draw`, `insert` and `review` as functions; README.md shows an example.

`remake_drawing` and `remake_insertion` make the image of a row of the manifest again, bit for bit, with the
version of this package that made it; where other pixels come out, they refuse.
"""

from metaldefect.commands.draw import draw
from metaldefect.commands.draw import remake as remake_drawing
from metaldefect.commands.insert import Summary, insert
from metaldefect.commands.insert import remake as remake_insertion
from metaldefect.commands.insert_settings import DrawSettings, InsertSettings
from metaldefect.commands.review import drop_images

__all__ = [
    "DrawSettings",
    "InsertSettings",
    "Summary",
    "draw",
    "drop_images",
    "insert",
    "remake_drawing",
    "remake_insertion",
]
