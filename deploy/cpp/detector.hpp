// The detector for C++ programs.
//
//     metaldefect::Detector detector("models/openvino", {"int8"});
//     auto detection = detector.predict(metaldefect::read_image("plate.png"));
//
//     std::future<metaldefect::Detection> later = detector.submit(image);  // read the next image meanwhile
//
// One detector may be used by several threads.
#pragma once

#include <condition_variable>
#include <future>
#include <mutex>
#include <openvino/openvino.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace metaldefect {

struct Options {
    std::string precision = "fp16";
    std::string device = "CPU";
    bool throughput = false;  // many images at once instead of the lowest latency for one
    std::optional<std::filesystem::path> public_key = {};  // an empty path is an error, not a check left out
    int threads = 0;                   // 0: all cores
    std::filesystem::path cache = {};  // folder for compiled graphs, which makes later starts quicker
};

struct Detection {
    float score;        // the anomaly map's maximum
    bool is_anomalous;  // whether the score exceeds the threshold
    int height;         // of the map: the model's size; of tiles, the image's
    int width;
    std::vector<float> map;  // row by row
};

class Detector {
public:
    // Checks hashes and signature, compiles the graph and scores the golden frames. Throws Error.
    Detector(const std::filesystem::path& folder, const Options& options);

    // Waits for the images in work.
    ~Detector();

    Detector(const Detector&) = delete;
    Detector& operator=(const Detector&) = delete;

    // Scores one image of any size, in tiles if the detector was trained on tiles. Throws Error if it is not
    // what the detector takes, or if the score is no finite number.
    Detection predict(const Image& image);

    // As predict, but returns at once, or as soon as one of `parallel()` images is done. The image is copied. A
    // detector that was trained on tiles returns when the image is scored: its tiles run several at once instead.
    std::future<Detection> submit(const Image& image);

    // As predict, for images in order, several at once.
    std::vector<Detection> predict_batch(const std::vector<Image>& images);

    // Scores tiles of the model's size. The score is the highest of any tile; the tiles' maps are blended into
    // one of the image's size, without seams.
    Detection predict_tiles(const Image& image, int overlap);

    // Pixels that tiles share, if the detector was trained on tiles.
    std::optional<int> tiles() const { return bundle_.tiles; }
    double threshold() const { return bundle_.threshold; }
    int height() const { return bundle_.height; }  // that images are resized to, or of tiles
    int width() const { return bundle_.width; }
    std::size_t parallel() const { return slots_.size(); }  // images that run at once

private:
    struct Slot {
        std::promise<Detection> promise;
        ov::InferRequest request;  // destroyed first: it waits for its callback, which fulfils the promise
    };

    ov::Tensor frame(const Image& image) const;
    Detection result(ov::InferRequest& request) const;
    std::future<Detection> start(const Image& image);
    void finish(std::size_t index, std::exception_ptr error);
    void give_back(std::size_t index);
    void self_test();

    Bundle bundle_;
    ov::CompiledModel model_;
    // Callbacks of requests use these, so requests are destroyed first
    std::mutex mutex_;
    std::condition_variable freed_;
    std::vector<std::size_t> idle_;
    std::vector<Slot> slots_;
};

}  // namespace metaldefect
