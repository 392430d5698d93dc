"""MaskGIT in Halton-MaskGIT's format: draws token grids of a class and fills holes in given grids."""
