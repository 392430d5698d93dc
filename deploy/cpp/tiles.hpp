// Overlapping tiles of a large image, placed as `metaldefect/tiling.py` places them.
#pragma once

#include <vector>

#include "bundle.hpp"

namespace metaldefect {

// First pixel of each tile along one axis: the first begins at 0, the last ends at `length`.
std::vector<int> tile_starts(int length, int tile, int overlap);

// The tiles of an image, row by row. Where a tile extends past the image, it repeats the border's pixels.
std::vector<Image> cut_tiles(const Image& image, int height, int width, int overlap);

}  // namespace metaldefect
