"""One thin module per DVC stage."""

from metaldefect.terminal import quiet

# Silence warnings first: some packages warn while a stage imports them
quiet()
