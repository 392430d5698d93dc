#include "tiles.hpp"

#include <algorithm>
#include <cmath>

namespace metaldefect {

std::vector<int> tile_starts(int length, int tile, int overlap) {
    if (overlap < 0 || overlap > tile / 2)
        throw Error("overlap " + std::to_string(overlap) + " px: 0 to " + std::to_string(tile / 2) +
                    " are allowed");
    if (length <= tile) return {0};
    const int step = tile - overlap;
    const int count = (length - overlap + step - 1) / step;
    std::vector<int> starts;
    for (int index = 0; index < count; ++index)
        starts.push_back(static_cast<int>(
            std::nearbyint(index * (static_cast<double>(length - tile) / (count - 1)))));
    return starts;
}

std::vector<Image> cut_tiles(const Image& image, int tile, int overlap) {
    std::vector<Image> tiles;
    for (int top : tile_starts(image.height, tile, overlap)) {
        for (int left : tile_starts(image.width, tile, overlap)) {
            Image cut{tile, tile, image.channels, image.deep, {}};
            cut.pixels.reserve(static_cast<std::size_t>(tile) * tile * image.channels);
            for (int row = top; row < top + tile; ++row) {
                for (int column = left; column < left + tile; ++column) {
                    const long y = std::min(row, image.height - 1);
                    const long x = std::min(column, image.width - 1);
                    const auto* pixel = &image.pixels[(y * image.width + x) * image.channels];
                    cut.pixels.insert(cut.pixels.end(), pixel, pixel + image.channels);
                }
            }
            tiles.push_back(std::move(cut));
        }
    }
    return tiles;
}

}  // namespace metaldefect
