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

namespace {

// Weight of a tile's pixels along one axis: rises linearly over the overlap with each neighbour.
std::vector<double> ramp(const std::vector<int>& starts, std::size_t index, int side) {
    const int before = index > 0 ? starts[index - 1] + side - starts[index] : 0;
    const int after = index + 1 < starts.size() ? starts[index] + side - starts[index + 1] : 0;
    std::vector<double> weights(side, 1.0);
    for (int pixel = 0; pixel < side; ++pixel) {
        if (before > 0) weights[pixel] = std::min(weights[pixel], (pixel + 0.5) / before);
        if (after > 0) weights[pixel] = std::min(weights[pixel], (side - pixel - 0.5) / after);
    }
    return weights;
}

}  // namespace

std::vector<float> stitch_maps(const std::vector<std::vector<float>>& maps, int image_height, int image_width,
                               int height, int width, int overlap) {
    const auto rows = tile_starts(image_height, height, overlap);
    const auto columns = tile_starts(image_width, width, overlap);
    const std::size_t size = static_cast<std::size_t>(image_height) * image_width;
    std::vector<double> total(size), weights(size);
    for (std::size_t index = 0; index < maps.size(); ++index) {
        const std::size_t row = index / columns.size(), column = index % columns.size();
        const auto vertical = ramp(rows, row, height), horizontal = ramp(columns, column, width);
        for (int y = 0; y < std::min(height, image_height - rows[row]); ++y) {
            for (int x = 0; x < std::min(width, image_width - columns[column]); ++x) {
                const std::size_t place = static_cast<std::size_t>(rows[row] + y) * image_width + columns[column] + x;
                const double weight = vertical[y] * horizontal[x];
                total[place] += weight * maps[index][static_cast<std::size_t>(y) * width + x];
                weights[place] += weight;
            }
        }
    }
    std::vector<float> stitched(size);
    for (std::size_t place = 0; place < size; ++place)
        stitched[place] = static_cast<float>(total[place] / weights[place]);
    return stitched;
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
