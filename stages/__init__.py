"""One thin module per DVC stage."""

from pipeline.terminal import quiet

# Before any stage imports the packages that warn while they are imported
quiet()
