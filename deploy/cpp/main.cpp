// detect BUNDLE IMAGE...: print one CSV row per image.
//
// Exit codes: 0 every image is normal, 3 at least one is anomalous, 1 an error, 2 a wrong command line.
// An image that cannot be scored, or whose map cannot be written, is named on standard error and costs the others
// nothing.
#include <cstdio>
#include <deque>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "detector.hpp"

namespace {

constexpr const char* usage =
    "usage: detect BUNDLE [--precision fp32|fp16|int8] [--device CPU] [--threads N] [--cache FOLDER]\n"
    "              [--throughput] [--tiles OVERLAP] [--public-key KEY.pem] [--maps FOLDER] [IMAGE...]\n"
    "Prints image,score,threshold,is_anomalous. Without images it only checks the bundle.\n"
    "With - as the image, it answers the names that arrive on standard input, line by line, until it closes.\n"
    "An image that cannot be scored then has a row without score and is_anomalous.\n"
    "--maps writes the anomaly map of each image as FOLDER/IMAGE.pfm (32-bit float).\n";

struct Arguments {
    std::vector<std::string> names;  // the bundle, then the images
    metaldefect::Options options;
    int overlap = -1;
    std::filesystem::path maps;
};

bool parse_number(const std::string& text, int& number) {
    if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos) return false;
    number = std::stoi(text);
    return true;
}

// Returns false if the command line is wrong.
bool parse(int count, char** words, Arguments& arguments) {
    auto& options = arguments.options;
    for (int index = 1; index < count; ++index) {
        const std::string word = words[index];
        if (word == "--throughput") {
            options.throughput = true;
        } else if (word.rfind("--", 0) == 0) {
            if (index + 1 == count) return false;
            const std::string value = words[++index];
            bool known = true;
            if (word == "--precision") options.precision = value;
            else if (word == "--device") options.device = value;
            else if (word == "--public-key") options.public_key = value;
            else if (word == "--cache") options.cache = value;
            else if (word == "--maps") arguments.maps = value;
            else if (word == "--threads") known = parse_number(value, options.threads);
            else if (word == "--tiles") known = parse_number(value, arguments.overlap);
            else known = false;
            if (!known) return false;
        } else {
            arguments.names.push_back(word);
        }
    }
    return !arguments.names.empty();
}

// Where the map of an image goes: its relative path and whole name are kept, so that no two images share a map.
// A path that leads out of the working folder becomes the absolute one, below the folder of the maps.
std::filesystem::path map_path(const std::filesystem::path& folder, const std::string& name) {
    auto path = std::filesystem::path(name).lexically_normal();
    if (*path.begin() == "..") path = std::filesystem::absolute(path).lexically_normal();
    path = folder / path.relative_path();
    return path += ".pfm";
}

// A portable float map: text header, then rows from the bottom up, little-endian.
void write_map(const std::filesystem::path& path, const metaldefect::Detection& found) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream stream(path, std::ios::binary);
    stream << "Pf\n" << found.width << " " << found.height << "\n-1.0\n";
    for (int row = found.height - 1; row >= 0; --row)
        stream.write(reinterpret_cast<const char*>(&found.map[static_cast<std::size_t>(row) * found.width]),
                     static_cast<std::streamsize>(sizeof(float)) * found.width);
    if (!stream) throw metaldefect::Error(path.string() + " cannot be written");
}

// A name as a CSV field.
std::string quoted(const std::string& name) {
    if (name.find_first_of(",\"\n") == std::string::npos) return name;
    std::string field = "\"";
    for (const char letter : name) field += letter == '"' ? std::string("\"\"") : std::string(1, letter);
    return field + "\"";
}

bool from_standard_input(const Arguments& arguments) {
    return arguments.names.size() == 2 && arguments.names[1] == "-";
}

// Scores images and prints their rows in order.
class Run {
public:
    explicit Run(const Arguments& arguments)
        : arguments_(arguments), detector_(arguments.names.front(), arguments.options) {
        if (!arguments.maps.empty()) std::filesystem::create_directories(arguments.maps);
        std::printf("image,score,threshold,is_anomalous\n");
    }

    // Starts an image; at most `waiting` stay unanswered.
    void score(const std::string& name, std::size_t waiting) {
        guard(name, [&] {
            const auto image = metaldefect::read_image(name);
            if (arguments_.overlap < 0) {
                pending_.emplace_back(name, detector_.submit(image));
            } else {
                std::promise<metaldefect::Detection> done;
                done.set_value(detector_.predict_tiles(image, arguments_.overlap));
                pending_.emplace_back(name, done.get_future());
            }
        });
        answer(waiting);
    }

    void answer(std::size_t waiting) {
        while (pending_.size() > waiting) {
            auto oldest = std::move(pending_.front());
            pending_.pop_front();
            guard(oldest.first, [&] { print(oldest.first, oldest.second.get()); });
        }
    }

    std::size_t parallel() const { return detector_.parallel(); }
    int exit_code() const { return failed_ ? 1 : anomalous_ ? 3 : 0; }

private:
    template <typename Work>
    void guard(const std::string& name, Work work) {
        try {
            work();
        } catch (const std::exception& error) {
            // Whoever waits for an answer to each name would take the next image's row for this one's
            if (from_standard_input(arguments_)) {
                std::printf("%s,,%.9g,\n", quoted(name).c_str(), detector_.threshold());
                std::fflush(stdout);
            }
            report(name, error.what());
        }
    }

    void report(const std::string& name, const std::string& reason) {
        std::cerr << "detect: " << (reason.rfind(name, 0) == 0 ? reason : name + ": " + reason) << std::endl;
        failed_ = true;
    }

    void print(const std::string& name, const metaldefect::Detection& found) {
        // The map comes first: whoever reads the row may open it at once. Without it, the verdict still counts
        std::string failure;
        try {
            if (!arguments_.maps.empty()) write_map(map_path(arguments_.maps, name), found);
        } catch (const std::exception& error) {
            failure = error.what();
        }
        std::printf("%s,%.9g,%.9g,%s\n", quoted(name).c_str(), found.score, detector_.threshold(),
                    found.is_anomalous ? "True" : "False");
        std::fflush(stdout);
        anomalous_ = anomalous_ || found.is_anomalous;
        if (!failure.empty()) report(name, failure);
    }

    const Arguments& arguments_;
    metaldefect::Detector detector_;
    std::deque<std::pair<std::string, std::future<metaldefect::Detection>>> pending_;
    bool anomalous_ = false;
    bool failed_ = false;
};

int run(const Arguments& arguments) {
    Run images(arguments);
    if (from_standard_input(arguments)) {
        for (std::string name; std::getline(std::cin, name);) images.score(name, 0);
    } else {
        for (std::size_t index = 1; index < arguments.names.size(); ++index)
            images.score(arguments.names[index], 2 * images.parallel());
    }
    images.answer(0);
    return images.exit_code();
}

}  // namespace

int main(int count, char** words) {
    Arguments arguments;
    if (!parse(count, words, arguments)) {
        std::cerr << usage;
        return 2;
    }
    try {
        return run(arguments);
    } catch (const std::exception& error) {
        std::cerr << "detect: " << error.what() << "\n";
        return 1;
    }
}
