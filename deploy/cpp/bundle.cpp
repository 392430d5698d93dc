#include "bundle.hpp"

#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "header.hpp"

#define STB_IMAGE_IMPLEMENTATION
#define STBI_FAILURE_USERMSG
#define STBI_NO_STDIO
// Python refuses what else stb knows, and so would a detector that moves from one to the other
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#include <stb/stb_image.h>

namespace metaldefect {
namespace {

constexpr int schema_version = 2;
constexpr long max_pixels = 50'000'000;
constexpr int min_side = 16;
constexpr int max_aspect = 8;

std::string contents(const std::filesystem::path& path) {
    std::error_code ignored;  // what cannot be looked at cannot be opened either, which says why
    if (std::filesystem::is_directory(path, ignored)) throw Error(path.string() + " is a folder");
    try {
        if (std::ifstream stream(path, std::ios::binary); stream)
            return {std::istreambuf_iterator<char>(stream), {}};
    } catch (const std::ios_base::failure&) {  // it opens, but its disk does not give its bytes
    }
    if (errno == ENOENT) throw Error(path.string() + " does not exist");
    throw Error(path.string() + " cannot be read: " + std::strerror(errno));
}

std::string sha256(const std::string& bytes) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr);
    std::string text;
    char pair[3];
    for (unsigned int index = 0; index < length; ++index) {
        std::snprintf(pair, sizeof pair, "%02x", digest[index]);
        text += pair;
    }
    return text;
}

void check_signature(const std::filesystem::path& folder, const std::string& metadata,
                     const std::filesystem::path& public_key) {
    if (public_key.empty()) throw Error("the public key's path is empty: name its PEM file");
    const std::string signature = contents(folder / "metadata.sig");
    const std::string pem = contents(public_key);
    std::unique_ptr<BIO, decltype(&BIO_free)> source(
        BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
    std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
        PEM_read_bio_PUBKEY(source.get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
    if (!key || EVP_PKEY_id(key.get()) != EVP_PKEY_ED25519)
        throw Error(public_key.string() + " holds no Ed25519 public key");
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get());
    const auto* signed_bytes = reinterpret_cast<const unsigned char*>(signature.data());
    const auto* message = reinterpret_cast<const unsigned char*>(metadata.data());
    if (EVP_DigestVerify(context.get(), signed_bytes, signature.size(), message, metadata.size()) != 1)
        throw Error((folder / "metadata.sig").string() +
                    " does not fit metadata.json: the bundle was changed, or another key signed it");
}

void check_file(const std::filesystem::path& folder, const nlohmann::json& metadata, const std::string& name) {
    const std::string expected = metadata.at("sha256").at(name).get<std::string>();
    if (sha256(contents(folder / name)) != expected)
        throw Error((folder / name).string() + " is not the file that metadata.json describes: restore it");
}

// `256` is a square, `[160, 400]` height and width.
std::pair<int, int> sides(const nlohmann::json& size) {
    if (size.is_array()) return {size.at(0).get<int>(), size.at(1).get<int>()};
    return {size.get<int>(), size.get<int>()};
}

}  // namespace

Image read_frame(const std::filesystem::path& path) {
    const std::string name = path.string();
    std::error_code ignored;  // what cannot be looked at cannot be opened either, and `contents` says why
    const auto status = std::filesystem::status(path, ignored);
    if (std::filesystem::is_directory(status)) throw Error(name + " is a folder: name images");
    if (std::filesystem::is_other(status)) throw Error(name + " is neither a file nor a folder");
    const std::string bytes = contents(path);
    if (bytes.size() > static_cast<std::size_t>(std::numeric_limits<int>::max()))
        throw Error(name + ": more than 2 GB: scale it down");
    const auto* data = reinterpret_cast<const stbi_uc*>(bytes.data());
    const int length = static_cast<int>(bytes.size());
    Image image;
    int channels = 0;
    if (stbi_info_from_memory(data, length, &image.width, &image.height, &channels) == 0)
        throw Error(name + ": unreadable image: " + stbi_failure_reason() + "; PNG, JPEG and BMP are read");
    image.height = std::abs(image.height);  // negative in a BMP whose first row is the upper one
    const long count = static_cast<long>(image.width) * image.height;
    if (count > max_pixels || std::min(image.width, image.height) < min_side)
        throw Error(name + ": " + std::to_string(image.width) + "x" + std::to_string(image.height) +
                    " pixels: at least 16 per side and at most 50,000,000 in all are needed");
    const Header header = read_header(bytes);
    if (header.orientation >= 2 && header.orientation <= 8)
        throw Error(name + ": turned by EXIF: save it upright");
    if (header.frames > 1)
        throw Error(name + ": " + std::to_string(header.frames) + " frames: save each as a file of its own");
    if (!header.whole) throw Error(name + ": unreadable image: it is cut off or damaged");
    if (header.components == 4) channels = 4;  // CMYK, of which stb makes RGB in its own way
    image.deep = stbi_is_16_bit_from_memory(data, length) != 0;
    if (channels != 1 && channels != 3)
        throw Error(name + ": " + std::to_string(channels) + " channels: save it as grey or RGB");
    if (image.deep && channels == 3)
        throw Error(name + ": 16-bit colour: save it as 16-bit grey or as 8-bit colour");
    image.channels = channels;
    // A PNG with a transparent level gets an alpha channel that its header does not count
    int loaded = 0;
    const auto keep = [&](auto* pixels) {
        if (pixels == nullptr) throw Error(name + ": unreadable image: " + stbi_failure_reason());
        if (loaded == channels) image.pixels.assign(pixels, pixels + count * channels);
        stbi_image_free(pixels);
        if (loaded != channels)
            throw Error(name + ": " + std::to_string(loaded) + " channels: save it as grey or RGB");
    };
    if (image.deep)
        keep(stbi_load_16_from_memory(data, length, &image.width, &image.height, &loaded, 0));
    else
        keep(stbi_load_from_memory(data, length, &image.width, &image.height, &loaded, 0));
    return image;
}

Image read_image(const std::filesystem::path& path) {
    Image image = read_frame(path);
    if (std::max(image.width, image.height) > max_aspect * std::min(image.width, image.height))
        throw Error(path.string() + ": " + std::to_string(image.width) + "x" + std::to_string(image.height) +
                    " is a strip, which resizing would squash: cut it into tiles at most 8 times as long as wide");
    return image;
}

Bundle read_bundle(const std::filesystem::path& folder, const std::string& precision,
                   const std::optional<std::filesystem::path>& public_key) {
    const std::string text = contents(folder / "metadata.json");
    if (public_key) check_signature(folder, text, *public_key);
    try {
        const auto metadata = nlohmann::json::parse(text);
        if (metadata.value("schema_version", 0) != schema_version)
            throw Error((folder / "metadata.json").string() + " has another schema_version than 2: export again");
        if (!metadata.at("precisions").contains(precision))
            throw Error(folder.string() + " has no " + precision + " graph");
        const auto& stated = metadata.at("precisions").at(precision);
        const auto graph = stated.at("graph").get<std::string>();
        check_file(folder, metadata, graph);
        check_file(folder, metadata, std::filesystem::path(graph).replace_extension(".bin").string());
        const auto& rule = metadata.at("input");
        const auto& tolerance = stated.at("tolerance");
        const auto [height, width] = sides(metadata.at("image_size"));
        Bundle bundle{folder, precision, folder / graph, rule.at("name"), height, width, std::nullopt,
                      rule.at("channels").get<std::vector<int>>(), std::nullopt, stated.at("threshold"),
                      tolerance.at("absolute"), tolerance.at("relative"), {}};
        if (metadata.contains("tiles") && !metadata.at("tiles").is_null()) bundle.tiles = metadata.at("tiles");
        // With u8, the levels are those of files that Python alone reads
        if (const auto& levels = rule.at("levels"); rule.at("type") == "u16")
            bundle.levels = Levels{levels.at("low"), levels.at("high"), levels.at("clip")};
        if (bundle.levels && (bundle.levels->low < 0 || bundle.levels->high > 65535))
            throw Error((folder / "metadata.json").string() + ": 16-bit frames do not hold its levels: export again");
        for (const auto& item : metadata.at("golden")) {
            bundle.golden.push_back({item.at("file"), item.at("scores").at(precision)});
            check_file(folder, metadata, "golden/" + bundle.golden.back().file);
        }
        if (bundle.golden.empty())
            throw Error((folder / "metadata.json").string() + " names no golden frames, so nothing can be tested:"
                        " export again");
        return bundle;
    } catch (const nlohmann::json::exception& error) {
        throw Error((folder / "metadata.json").string() + " is not a bundle's: " + error.what());
    }
}

}  // namespace metaldefect
