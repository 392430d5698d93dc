#include "detector.hpp"

#include <algorithm>
#include <cmath>

#include "tiles.hpp"

namespace metaldefect {
namespace {

std::uint16_t on_levels(std::uint16_t level, bool deep, const Levels& levels) {
    if (!deep) return static_cast<std::uint16_t>(std::nearbyint(levels.low + level * ((levels.high - levels.low) / 255.0)));
    if (!levels.clip && (level < levels.low || level > levels.high))
        throw Error("level " + std::to_string(level) + " is beyond this detector's range: the camera's settings"
                    " differ from those of the training images");
    return level;
}

}  // namespace

Detector::Detector(const std::filesystem::path& folder, const Options& options)
    : bundle_(read_bundle(folder, options.precision, options.public_key)) {
    ov::AnyMap settings{ov::hint::performance_mode(options.throughput ? ov::hint::PerformanceMode::THROUGHPUT
                                                                      : ov::hint::PerformanceMode::LATENCY)};
    if (options.precision == "fp32") settings.insert(ov::hint::inference_precision(ov::element::f32));
    try {
        ov::Core core;
        model_ = core.compile_model(bundle_.graph.string(), options.device, settings);
    } catch (const ov::Exception& error) {
        throw Error(bundle_.graph.string() + " cannot be compiled for " + options.device + ": " + error.what());
    }
    const auto count = model_.get_property(ov::optimal_number_of_infer_requests);
    for (unsigned int index = 0; index < count; ++index) requests_.push_back(model_.create_infer_request());
    self_test();
}

ov::Tensor Detector::frame(const Image& image) const {
    const auto& allowed = bundle_.channels;
    if (std::find(allowed.begin(), allowed.end(), image.channels) == allowed.end())
        throw Error(std::to_string(image.channels) + " channels: this detector does not take them");
    const ov::Shape shape{1, static_cast<std::size_t>(image.height), static_cast<std::size_t>(image.width),
                          static_cast<std::size_t>(image.channels)};
    if (bundle_.levels) {
        ov::Tensor tensor(ov::element::u16, shape);
        std::transform(image.pixels.begin(), image.pixels.end(), tensor.data<std::uint16_t>(),
                       [&](std::uint16_t level) { return on_levels(level, image.deep, *bundle_.levels); });
        return tensor;
    }
    if (image.deep) throw Error("16-bit image: this detector was trained on 8-bit images");
    ov::Tensor tensor(ov::element::u8, shape);
    std::copy(image.pixels.begin(), image.pixels.end(), tensor.data<std::uint8_t>());
    return tensor;
}

Detection Detector::result(ov::InferRequest& request) const {
    const ov::Tensor map = request.get_tensor("anomaly_map");
    const float score = *request.get_tensor("score").data<const float>();
    const auto* values = map.data<const float>();
    return {score, score > bundle_.threshold, std::vector<float>(values, values + map.get_size())};
}

Detection Detector::predict(const Image& image) {
    return bundle_.tiles ? predict_tiles(image, *bundle_.tiles) : predict_batch({image}).front();
}

std::vector<Detection> Detector::predict_batch(const std::vector<Image>& images) {
    std::vector<Detection> detections;
    detections.reserve(images.size());
    // Each request works on one image; its result is collected before the request gets its next one
    const std::size_t parallel = requests_.size();
    try {
        for (std::size_t index = 0; index < images.size() + parallel; ++index) {
            auto& request = requests_[index % parallel];
            if (index >= parallel && index - parallel < images.size()) {
                request.wait();
                detections.push_back(result(request));
            }
            if (index < images.size()) {
                request.set_tensor(bundle_.input, frame(images[index]));
                request.start_async();
            }
        }
    } catch (...) {
        for (auto& request : requests_) request.wait();  // leave none busy for the next call
        throw;
    }
    return detections;
}

Detection Detector::predict_tiles(const Image& image, int overlap) {
    auto found = predict_batch(cut_tiles(image, bundle_.height, bundle_.width, overlap));
    return *std::max_element(found.begin(), found.end(),
                             [](const auto& one, const auto& other) { return one.score < other.score; });
}

void Detector::self_test() {
    std::vector<Image> frames;
    for (const auto& item : bundle_.golden) frames.push_back(read_image(bundle_.folder / "golden" / item.file));
    const auto found = predict_batch(frames);
    for (std::size_t index = 0; index < found.size(); ++index) {
        const auto& [file, expected] = bundle_.golden[index];
        const double allowed = bundle_.absolute_tolerance + bundle_.relative_tolerance * std::abs(expected);
        if (!(std::abs(found[index].score - expected) <= allowed))
            throw Error(bundle_.folder.string() + " fails its self-test: golden/" + file + " scores " +
                        std::to_string(found[index].score) + ", expected " + std::to_string(expected));
    }
}

}  // namespace metaldefect
