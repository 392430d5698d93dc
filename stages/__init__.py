"""One thin module per DVC stage."""

from pipeline.terminal import quiet

# Silence warnings first: some packages warn while a stage imports them
quiet()
