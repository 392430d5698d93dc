"""The work behind the `metaldefect` commands: train a detector, score images, distil a teacher."""
