#include "detector.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "tiles.hpp"

namespace metaldefect {
namespace {

constexpr double grey_range = 255.0;

// Spreads an 8-bit level over the levels; checks that a deeper one lies within them.
std::uint16_t on_levels(std::uint16_t level, bool deep, const Levels& levels) {
    if (!deep)
        return static_cast<std::uint16_t>(
            std::nearbyint(levels.low + level * ((levels.high - levels.low) / grey_range)));
    if (!levels.clip && (level < levels.low || level > levels.high)) {
        std::ostringstream range;
        range << levels.low << " to " << levels.high;
        throw Error("level " + std::to_string(level) + " is beyond this detector's range " + range.str() +
                    ": the camera's settings differ from those of the training images");
    }
    return level;
}

}  // namespace

Detector::Detector(const std::filesystem::path& folder, const Options& options)
    : bundle_(read_bundle(folder, options.precision, options.public_key)) {
    ov::AnyMap settings{ov::hint::performance_mode(options.throughput ? ov::hint::PerformanceMode::THROUGHPUT
                                                                      : ov::hint::PerformanceMode::LATENCY)};
    if (options.precision == "fp32") settings.insert(ov::hint::inference_precision(ov::element::f32));
    if (options.threads > 0) settings.insert(ov::inference_num_threads(options.threads));
    if (!options.cache.empty()) settings.insert(ov::cache_dir(options.cache.string()));
    try {
        ov::Core core;
        // Weights that are mapped from their file crash the process when somebody overwrites the file
        core.set_property(ov::enable_mmap(false));
        model_ = core.compile_model(bundle_.graph.string(), options.device, settings);
    } catch (const ov::Exception& error) {
        throw Error(bundle_.graph.string() + " cannot be compiled for " + options.device + ": " + error.what());
    }
    try {
        model_.input(bundle_.input);
        for (const auto* name : {"anomaly_map", "score"}) model_.output(name);
    } catch (const ov::Exception& error) {
        throw Error(bundle_.graph.string() + " is not a detector's graph: " + error.what());
    }
    slots_ = std::vector<Slot>(model_.get_property(ov::optimal_number_of_infer_requests));
    for (std::size_t index = 0; index < slots_.size(); ++index) {
        slots_[index].request = model_.create_infer_request();
        slots_[index].request.set_callback([this, index](std::exception_ptr error) { finish(index, error); });
        idle_.push_back(index);
    }
    self_test();
}

Detector::~Detector() {
    std::unique_lock lock(mutex_);
    freed_.wait(lock, [this] { return idle_.size() == slots_.size(); });
}

ov::Tensor Detector::frame(const Image& image) const {
    const auto& allowed = bundle_.channels;
    if (std::find(allowed.begin(), allowed.end(), image.channels) == allowed.end())
        throw Error(std::to_string(image.channels) + " channels: this detector does not take them");
    const auto count = static_cast<std::size_t>(image.height) * image.width * image.channels;
    if (image.pixels.size() != count)
        throw Error(std::to_string(image.pixels.size()) + " values, but the sides and channels give " +
                    std::to_string(count));
    const ov::Shape shape{1, static_cast<std::size_t>(image.height), static_cast<std::size_t>(image.width),
                          static_cast<std::size_t>(image.channels)};
    if (bundle_.levels) {
        if (!image.deep && bundle_.levels->high - bundle_.levels->low < grey_range)
            throw Error("8-bit image: this detector tells fewer levels apart");
        ov::Tensor tensor(ov::element::u16, shape);
        std::transform(image.pixels.begin(), image.pixels.end(), tensor.data<std::uint16_t>(),
                       [&](std::uint16_t level) { return on_levels(level, image.deep, *bundle_.levels); });
        return tensor;
    }
    if (image.deep) throw Error("16-bit image: this detector takes 8-bit images");
    ov::Tensor tensor(ov::element::u8, shape);
    std::copy(image.pixels.begin(), image.pixels.end(), tensor.data<std::uint8_t>());
    return tensor;
}

Detection Detector::result(ov::InferRequest& request) const {
    const ov::Tensor map = request.get_tensor("anomaly_map");
    const float score = *request.get_tensor("score").data<const float>();
    const auto* values = map.data<const float>();
    // Comparisons with NaN are false, so it would pass for a normal image
    if (!std::isfinite(score)) throw Error("the score is no finite number: try precision fp32");
    return {score, score > bundle_.threshold, bundle_.height, bundle_.width,
            std::vector<float>(values, values + map.get_size())};
}

std::future<Detection> Detector::start(const Image& image) {
    const ov::Tensor tensor = frame(image);
    std::size_t index;
    {
        std::unique_lock lock(mutex_);
        freed_.wait(lock, [this] { return !idle_.empty(); });
        index = idle_.back();
        idle_.pop_back();
    }
    Slot& slot = slots_[index];
    slot.promise = std::promise<Detection>();
    auto future = slot.promise.get_future();
    try {
        slot.request.set_tensor(bundle_.input, tensor);
        slot.request.start_async();
    } catch (...) {
        give_back(index);
        throw;
    }
    return future;
}

void Detector::finish(std::size_t index, std::exception_ptr error) {
    Slot& slot = slots_[index];
    try {
        if (error) std::rethrow_exception(error);
        slot.promise.set_value(result(slot.request));
    } catch (...) {
        slot.promise.set_exception(std::current_exception());
    }
    give_back(index);
}

void Detector::give_back(std::size_t index) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(index);
    freed_.notify_all();
}

std::future<Detection> Detector::submit(const Image& image) {
    if (!bundle_.tiles) return start(image);
    std::promise<Detection> done;  // its tiles are scored several at once already
    done.set_value(predict_tiles(image, *bundle_.tiles));
    return done.get_future();
}

Detection Detector::predict(const Image& image) { return submit(image).get(); }

std::vector<Detection> Detector::predict_batch(const std::vector<Image>& images) {
    std::vector<std::future<Detection>> started;
    for (const auto& image : images) started.push_back(submit(image));
    std::vector<Detection> detections;
    for (auto& future : started) detections.push_back(future.get());
    return detections;
}

Detection Detector::predict_tiles(const Image& image, int overlap) {
    std::vector<std::future<Detection>> started;
    for (const auto& tile : cut_tiles(image, bundle_.height, bundle_.width, overlap))
        started.push_back(start(tile));
    std::vector<std::vector<float>> maps;
    float score = -std::numeric_limits<float>::infinity();
    for (auto& future : started) {
        auto found = future.get();
        score = std::max(score, found.score);
        maps.push_back(std::move(found.map));
    }
    return {score, score > bundle_.threshold, image.height, image.width,
            stitch_maps(maps, image.height, image.width, bundle_.height, bundle_.width, overlap)};
}

void Detector::self_test() {
    std::vector<std::future<Detection>> started;
    for (const auto& item : bundle_.golden)
        started.push_back(start(read_frame(bundle_.folder / "golden" / item.file)));
    const auto allowed = [this](double expected) {
        return bundle_.absolute_tolerance + bundle_.relative_tolerance * std::abs(expected);
    };
    for (std::size_t index = 0; index < started.size(); ++index) {
        const auto& [file, expected] = bundle_.golden[index];
        Detection found;
        try {
            found = started[index].get();
        } catch (const Error& error) {
            throw Error(bundle_.folder.string() + " fails its self-test: golden/" + file + ": " + error.what());
        }
        const bool near = std::abs(bundle_.threshold - expected) <= allowed(expected);
        const bool changed = found.is_anomalous != (expected > bundle_.threshold) && !near;
        if (!(std::abs(found.score - expected) <= allowed(expected)) || changed)
            throw Error(bundle_.folder.string() + " fails its self-test: golden/" + file + " scores " +
                        std::to_string(found.score) + ", expected " + std::to_string(expected) +
                        ". This machine or this OpenVINO computes something else: do not use it for decisions");
    }
}

}  // namespace metaldefect
