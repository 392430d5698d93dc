// compare_calls BUNDLE IMAGE...: score images by every call of the library, for the test that compares them.
//
// Prints one row per image: the scores of predict, submit, and predict_batch.
#include <cstdio>
#include <iostream>

#include "detector.hpp"

int main(int count, char** words) {
    if (count < 3) {
        std::cerr << "usage: compare_calls BUNDLE IMAGE...\n";
        return 2;
    }
    try {
        metaldefect::Options options;
        options.precision = "fp32";
        options.throughput = true;
        metaldefect::Detector detector(words[1], options);
        std::vector<metaldefect::Image> images;
        for (int index = 2; index < count; ++index) images.push_back(metaldefect::read_image(words[index]));
        std::vector<std::future<metaldefect::Detection>> later;
        for (const auto& image : images) later.push_back(detector.submit(image));
        const auto batch = detector.predict_batch(images);
        for (std::size_t index = 0; index < images.size(); ++index)
            std::printf("%.9g,%.9g,%.9g\n", detector.predict(images[index]).score, later[index].get().score,
                        batch.at(index).score);
    } catch (const std::exception& error) {
        std::cerr << "compare_calls: " << error.what() << "\n";
        return 1;
    }
}
