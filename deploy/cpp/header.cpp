#include "header.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace metaldefect {
namespace {

constexpr std::size_t orientation_tag = 0x0112;
constexpr std::size_t short_type = 3, long_type = 4;
const std::string png_signature = "\x89PNG\r\n\x1a\n";
const std::string exif_prefix("Exif\0\0", 6);
const std::string xmp_prefix("http://ns.adobe.com/xap/1.0/\0", 29);
const std::string xmp_keyword("XML:com.adobe.xmp\0", 18);

// A whole number of some bytes; bytes beyond the end count as 0.
std::size_t number(const std::string& bytes, std::size_t at, std::size_t length, bool little = false) {
    std::size_t value = 0;
    for (std::size_t index = 0; index < length; ++index) {
        const std::size_t place = at + (little ? length - 1 - index : index);
        value = value * 256 + (place < bytes.size() ? static_cast<unsigned char>(bytes[place]) : 0);
    }
    return value;
}

bool starts_with(const std::string& text, const std::string& prefix) {
    return text.compare(0, prefix.size(), prefix) == 0;
}

// The orientation in the first directory of a TIFF header, which is how EXIF stores it.
std::optional<int> in_exif(const std::string& tiff) {
    const bool little = starts_with(tiff, "II");
    const std::size_t directory = number(tiff, 4, 4, little);
    const std::size_t entries = number(tiff, directory, 2, little);
    for (std::size_t index = 0; index < entries; ++index) {
        const std::size_t entry = directory + 2 + 12 * index;
        if (entry + 12 > tiff.size()) break;
        if (number(tiff, entry, 2, little) != orientation_tag) continue;
        const std::size_t type = number(tiff, entry + 2, 2, little);
        if (type == short_type) return static_cast<int>(number(tiff, entry + 8, 2, little));
        if (type == long_type) return static_cast<int>(number(tiff, entry + 8, 4, little));
        return 1;
    }
    return std::nullopt;
}

// The orientation in XMP, as an attribute or an element.
std::optional<int> in_xmp(const std::string& text) {
    const std::string name = "tiff:Orientation";
    for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
        std::size_t digit = at + name.size();
        if (text.compare(digit, 2, "=\"") == 0) digit += 2;
        else if (text.compare(digit, 1, ">") == 0) digit += 1;
        else continue;
        if (digit < text.size() && text[digit] >= '0' && text[digit] <= '9') return text[digit] - '0';
    }
    return std::nullopt;
}

struct Found {
    std::optional<int> exif;
    std::optional<int> xmp;
    int components = 0;
    int frames = 1;
    bool whole = true;
};

// CRC-32 of PNG (ISO 3309), of `length` bytes from `at` on.
std::uint32_t checksum(const std::string& bytes, std::size_t at, std::size_t length) {
    static const auto table = [] {
        std::array<std::uint32_t, 256> made{};
        for (std::uint32_t byte = 0; byte < 256; ++byte) {
            std::uint32_t value = byte;
            for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xEDB88320U ^ (value >> 1) : value >> 1;
            made[byte] = value;
        }
        return made;
    }();
    std::uint32_t value = 0xFFFFFFFFU;
    for (std::size_t place = at; place < at + length; ++place)
        value = table[(value ^ static_cast<unsigned char>(bytes[place])) & 0xFF] ^ (value >> 8);
    return ~value;
}

Found in_bmp(const std::string& bytes) {
    constexpr std::size_t core_header = 12;  // of OS/2, with short sides
    const bool is_short = number(bytes, 14, 4, true) == core_header;
    const std::size_t width = number(bytes, 18, is_short ? 2 : 4, true);
    const std::size_t stored = number(bytes, is_short ? 20 : 22, is_short ? 2 : 4, true);
    // A negative height: the first row is the upper one
    const std::size_t height = !is_short && stored > 0x7FFFFFFF ? 0x100000000 - stored : stored;
    const std::size_t bits = width * number(bytes, is_short ? 24 : 28, 2, true);
    Found found;
    // Rows fill words of four bytes; the last one may end with its pixels
    found.whole = height == 0 ||
                  number(bytes, 10, 4, true) + (height - 1) * ((bits + 31) / 32 * 4) + (bits + 7) / 8 <=
                      bytes.size();
    return found;
}

Found in_png(const std::string& bytes) {
    Found found;
    for (std::size_t at = png_signature.size(); at + 12 <= bytes.size();) {
        const std::size_t length = number(bytes, at, 4);
        const std::string type = bytes.substr(at + 4, 4);
        if (length > bytes.size() - at - 12 ||
            checksum(bytes, at + 4, 4 + length) != number(bytes, at + 8 + length, 4)) {
            found.whole = false;
            break;
        }
        if (type == "eXIf") found.exif = in_exif(bytes.substr(at + 8, length));
        if (type == "iTXt" && bytes.compare(at + 8, xmp_keyword.size(), xmp_keyword) == 0)
            found.xmp = in_xmp(bytes.substr(at + 8, length));
        if (type == "acTL") found.frames = static_cast<int>(number(bytes, at + 8, 4));
        at += 12 + length;  // length, type, content, checksum
    }
    return found;
}

// A frame header (SOF0 to SOF15), whose numbers leave out the tables DHT, JPG and DAC.
bool is_frame(std::size_t marker) {
    return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

Found in_jpeg(const std::string& bytes) {
    Found found;
    found.whole = false;
    for (std::size_t at = 2; at + 4 <= bytes.size();) {
        const std::size_t marker = number(bytes, at + 1, 1);
        if (number(bytes, at, 1) != 0xFF || marker == 0xFF || marker == 0x00) {
            ++at;  // padding
            continue;
        }
        if (marker == 0xD9) break;
        if (marker == 0xDA) {  // the pixels begin, among which no end marker can be
            found.whole = bytes.find("\xFF\xD9", at) != std::string::npos;
            break;
        }
        if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) {
            at += 2;  // markers without content
            continue;
        }
        const std::size_t length = number(bytes, at + 2, 2);
        if (length < 2) break;
        const std::string content = bytes.substr(at + 4, length - 2);
        if (is_frame(marker)) found.components = static_cast<int>(number(content, 5, 1));
        if (marker == 0xE1 && starts_with(content, exif_prefix) && !found.exif)
            found.exif = in_exif(content.substr(exif_prefix.size()));
        if (marker == 0xE1 && starts_with(content, xmp_prefix) && !found.xmp) found.xmp = in_xmp(content);
        at += 2 + length;
    }
    return found;
}

}  // namespace

Header read_header(const std::string& bytes) {
    Found found;
    if (starts_with(bytes, png_signature)) found = in_png(bytes);
    if (starts_with(bytes, "\xFF\xD8")) found = in_jpeg(bytes);
    if (starts_with(bytes, "BM")) found = in_bmp(bytes);
    return {found.exif ? *found.exif : found.xmp.value_or(1), found.components, found.frames, found.whole};
}

}  // namespace metaldefect
