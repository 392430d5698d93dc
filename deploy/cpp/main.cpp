// detect BUNDLE IMAGE...: print one CSV row per image.
//
// Exit codes: 0 every image is normal, 3 at least one is anomalous, 1 an error, 2 a wrong command line.
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "detector.hpp"

namespace {

constexpr const char* usage =
    "usage: detect BUNDLE [--precision fp32|fp16|int8] [--device CPU] [--throughput] [--tiles OVERLAP]\n"
    "              [--public-key KEY.pem] [IMAGE...]\n"
    "Prints image,score,threshold,is_anomalous. Without images it only checks the bundle.\n";

struct Arguments {
    std::vector<std::string> names;  // the bundle, then the images
    metaldefect::Options options;
    int overlap = -1;
};

// Returns false if the command line is wrong.
bool parse(int count, char** words, Arguments& arguments) {
    for (int index = 1; index < count; ++index) {
        const std::string word = words[index];
        if (word == "--throughput") {
            arguments.options.throughput = true;
        } else if (word.rfind("--", 0) == 0) {
            if (index + 1 == count) return false;
            const std::string value = words[++index];
            if (word == "--precision") arguments.options.precision = value;
            else if (word == "--device") arguments.options.device = value;
            else if (word == "--public-key") arguments.options.public_key = value;
            else if (word == "--tiles") {
                if (value.empty() || value.find_first_not_of("0123456789") != std::string::npos) return false;
                arguments.overlap = std::stoi(value);
            } else return false;
        } else {
            arguments.names.push_back(word);
        }
    }
    return !arguments.names.empty();
}

// Scores all images; returns whether one is anomalous.
bool run(const Arguments& arguments) {
    metaldefect::Detector detector(arguments.names.front(), arguments.options);
    std::vector<metaldefect::Image> images;
    for (std::size_t index = 1; index < arguments.names.size(); ++index)
        images.push_back(metaldefect::read_image(arguments.names[index]));
    std::vector<metaldefect::Detection> found;
    const int overlap = arguments.overlap < 0 ? detector.tiles().value_or(-1) : arguments.overlap;
    if (overlap < 0) {
        found = detector.predict_batch(images);
    } else {
        for (const auto& image : images) found.push_back(detector.predict_tiles(image, overlap));
    }
    std::printf("image,score,threshold,is_anomalous\n");
    bool anomalous = false;
    for (std::size_t index = 0; index < found.size(); ++index) {
        std::printf("%s,%.9g,%.9g,%s\n", arguments.names[index + 1].c_str(), found[index].score,
                    detector.threshold(), found[index].is_anomalous ? "True" : "False");
        anomalous = anomalous || found[index].is_anomalous;
    }
    return anomalous;
}

}  // namespace

int main(int count, char** words) {
    Arguments arguments;
    if (!parse(count, words, arguments)) {
        std::cerr << usage;
        return 2;
    }
    try {
        return run(arguments) ? 3 : 0;
    } catch (const std::exception& error) {
        std::cerr << "detect: " << error.what() << "\n";
        return 1;
    }
}
