"""What the command `metaldefect` does: train a detector, look at images with it."""
