// Overlapping tiles of a large image, placed as `metaldefect/tiling.py` places them.
#pragma once

#include <vector>

#include "bundle.hpp"

namespace metaldefect {

// First pixel of each tile along one axis: the first begins at 0, the last ends at `length`.
std::vector<int> tile_starts(int length, int tile, int overlap);

// The tiles of an image, row by row. Where a tile extends past the image, it repeats the border's pixels.
std::vector<Image> cut_tiles(const Image& image, int height, int width, int overlap);

// Blends the tiles' maps into one of the image's size: where tiles overlap, each counts the less the closer a
// pixel is to its edge, down to nothing. The values of one tile alone stay exactly as they are.
std::vector<float> stitch_maps(const std::vector<std::vector<float>>& maps, int image_height, int image_width,
                               int height, int width, int overlap);

}  // namespace metaldefect
