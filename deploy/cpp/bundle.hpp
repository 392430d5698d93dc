// A bundle on disk: metadata, hashes, signature, golden frames.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace metaldefect {

// What the user can mend: the message names the file, the value and what to do.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Pixels `[height, width, channels]`; three channels are RGB. 8-bit levels fit in 16 bits too.
struct Image {
    int height = 0;
    int width = 0;
    int channels = 1;
    bool deep = false;  // more than 8 bits per pixel
    std::vector<std::uint16_t> pixels;
};

// Reads PNG, JPEG and BMP, 8 bits or 16-bit grey. Like Python's reader it refuses strips longer than 8:1. Unlike
// Python's it refuses what EXIF turns, and every alpha channel. Throws Error.
Image read_image(const std::filesystem::path& path);

// As read_image, of any shape: the golden frames of a detector for strips are strips too.
Image read_frame(const std::filesystem::path& path);

// Which levels of a 16-bit frame become black and white.
struct Levels {
    double low;
    double high;
    bool clip;
};

struct Golden {
    std::string file;
    double score;
};

// What one precision needs, from `metadata.json`.
struct Bundle {
    std::filesystem::path folder;
    std::string precision;
    std::filesystem::path graph;
    std::string input;
    int height;  // that frames are resized to, or of the tiles that they are cut into
    int width;
    std::optional<int> tiles;  // pixels that tiles share; without it, frames are resized
    std::vector<int> channels;
    std::optional<Levels> levels;  // of 16-bit frames; without them, frames have 8 bits
    double threshold;
    double absolute_tolerance;
    double relative_tolerance;
    std::vector<Golden> golden;
};

// Reads the metadata and checks the hash of every file of the precision. With a public key (PEM, Ed25519),
// its owner must have signed the metadata. Throws Error.
Bundle read_bundle(const std::filesystem::path& folder, const std::string& precision,
                   const std::optional<std::filesystem::path>& public_key = {});

}  // namespace metaldefect
