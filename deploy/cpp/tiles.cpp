#include "tiles.hpp"

#include <algorithm>
#include <cmath>

namespace metaldefect {

std::vector<int> tile_starts(int length, int tile, int overlap) {
    if (length <= tile) return {0};
    const int step = tile - overlap;
    const int count = (length - overlap + step - 1) / step;
    std::vector<int> starts;
    for (int index = 0; index < count; ++index)
        starts.push_back(static_cast<int>(
            std::nearbyint(index * (static_cast<double>(length - tile) / (count - 1)))));
    return starts;
}

std::vector<Image> cut_tiles(const Image& image, int height, int width, int overlap) {
    const int most = std::min(height, width) / 2;
    if (overlap < 0 || overlap > most)
        throw Error("overlap " + std::to_string(overlap) + " px: 0 to " + std::to_string(most) + " are allowed");
    std::vector<Image> tiles;
    for (int top : tile_starts(image.height, height, overlap)) {
        for (int left : tile_starts(image.width, width, overlap)) {
            Image cut{height, width, image.channels, image.deep, {}};
            cut.pixels.reserve(static_cast<std::size_t>(height) * width * image.channels);
            for (int row = top; row < top + height; ++row) {
                for (int column = left; column < left + width; ++column) {
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
