// The detector for C++ programs.
//
//     metaldefect::Detector detector("models/openvino", {"int8"});
//     auto detection = detector.predict(metaldefect::read_image("plate.png"));
#pragma once

#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace metaldefect {

struct Options {
    std::string precision = "fp16";
    std::string device = "CPU";
    bool throughput = false;  // many images at once instead of the lowest latency for one
    std::filesystem::path public_key = {};
};

struct Detection {
    float score;             // the anomaly map's maximum
    bool is_anomalous;       // whether the score exceeds the threshold
    std::vector<float> map;  // at the model's size, row by row; of tiles: the map of the highest score
};

class Detector {
public:
    // Checks hashes and signature, compiles the graph and scores the golden frames. Throws Error.
    Detector(const std::filesystem::path& folder, const Options& options);

    // Scores one image of any size, in tiles if the detector was trained on tiles. Throws Error if it is not
    // what the detector takes.
    Detection predict(const Image& image);

    // Scores images in order, several at once, each resized.
    std::vector<Detection> predict_batch(const std::vector<Image>& images);

    // Scores tiles of the model's size; the score is the highest of any tile.
    Detection predict_tiles(const Image& image, int overlap);

    // Pixels that tiles share, if the detector was trained on tiles.
    std::optional<int> tiles() const { return bundle_.tiles; }
    double threshold() const { return bundle_.threshold; }
    int height() const { return bundle_.height; }  // of the map, and that images are resized to
    int width() const { return bundle_.width; }

private:
    ov::Tensor frame(const Image& image) const;
    Detection result(ov::InferRequest& request) const;
    void self_test();

    Bundle bundle_;
    ov::CompiledModel model_;
    std::vector<ov::InferRequest> requests_;
};

}  // namespace metaldefect
