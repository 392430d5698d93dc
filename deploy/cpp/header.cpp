#include "header.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <optional>

#include <stb/stb_image.h>

namespace metaldefect {
namespace {

constexpr std::size_t orientation_tag = 0x0112, pictures_tag = 0xB001;
constexpr std::size_t short_type = 3, long_type = 4;
const std::string png_signature = "\x89PNG\r\n\x1a\n";
const std::string exif_prefix("Exif\0\0", 6);
const std::string xmp_prefix("http://ns.adobe.com/xap/1.0/\0", 29);
const std::string pictures_prefix("MPF\0", 4);
constexpr std::size_t longest_text = 1 << 20;  // Pillow refuses files whose texts are longer

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

// A tag in the first directory of a TIFF header, in which EXIF stores the orientation.
std::optional<int> in_directory(const std::string& tiff, std::size_t tag) {
    const bool little = starts_with(tiff, "II");
    const std::size_t directory = number(tiff, 4, 4, little);
    const std::size_t entries = number(tiff, directory, 2, little);
    for (std::size_t index = 0; index < entries; ++index) {
        const std::size_t entry = directory + 2 + 12 * index;
        if (entry + 12 > tiff.size()) break;
        if (number(tiff, entry, 2, little) != tag) continue;
        const std::size_t type = number(tiff, entry + 2, 2, little);
        if (type == short_type) return static_cast<int>(number(tiff, entry + 8, 2, little));
        if (type == long_type) return static_cast<int>(number(tiff, entry + 8, 4, little));
        return 1;
    }
    return std::nullopt;
}

std::optional<int> in_exif(const std::string& content) {
    std::size_t start = 0;
    while (content.compare(start, exif_prefix.size(), exif_prefix) == 0) start += exif_prefix.size();
    return in_directory(content.substr(start), orientation_tag);
}

// The orientation in EXIF that ImageMagick writes as text: three lines, then hexadecimal digits.
std::optional<int> in_raw_profile(const std::string& text) {
    std::size_t at = 0;
    for (int line = 0; line < 3; ++line) {
        at = text.find('\n', at);
        if (at++ == std::string::npos) return std::nullopt;
    }
    std::string digits, content;
    for (; at < text.size(); ++at)
        if (std::isxdigit(static_cast<unsigned char>(text[at]))) digits += text[at];
    for (std::size_t place = 0; place + 1 < digits.size(); place += 2)
        content += static_cast<char>(std::stoi(digits.substr(place, 2), nullptr, 16));
    return in_exif(content);
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
    std::optional<int> raw_profile;
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

// Decompressed text; nullopt where that fails.
std::optional<std::string> inflate(const std::string& bytes) {
    std::string text(longest_text, '\0');
    const int length = stbi_zlib_decode_buffer(text.data(), static_cast<int>(text.size()), bytes.data(),
                                               static_cast<int>(bytes.size()));
    if (length < 0) return std::nullopt;
    text.resize(static_cast<std::size_t>(length));
    return text;
}

// The text of a tEXt, zTXt or iTXt chunk, of whose content the keyword is cut off; nullopt where it is broken.
std::optional<std::string> text_of(const std::string& type, const std::string& content) {
    if (type == "tEXt") return content;
    if (type == "zTXt") return inflate(content.substr(std::min<std::size_t>(1, content.size())));
    std::size_t at = 2;  // after whether and how it is compressed, then language and translated keyword
    for (int field = 0; field < 2; ++field) {
        at = content.find('\0', at);
        if (at++ == std::string::npos) return std::nullopt;
    }
    return content[0] == '\0' ? content.substr(at) : inflate(content.substr(at));
}

// Takes an orientation from a text chunk, as Pillow does.
void read_text(const std::string& type, const std::string& content, Found& found) {
    const std::size_t end = content.find('\0');
    if (end == std::string::npos) return;
    const std::string keyword = content.substr(0, end);
    const bool is_raw_profile = keyword == "Raw profile type exif", is_xmp = keyword == "XML:com.adobe.xmp";
    if (type == "tEXt" && keyword == "exif") found.exif = in_exif(content.substr(end + 1));
    if (!is_raw_profile && !is_xmp) return;
    const auto text = text_of(type, content.substr(end + 1));
    if (!text) found.whole = false;
    else if (is_raw_profile) found.raw_profile = in_raw_profile(*text);
    else found.xmp = in_xmp(*text);
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
        if (type == "tEXt" || type == "zTXt" || type == "iTXt")
            read_text(type, bytes.substr(at + 8, length), found);
        if (type == "acTL") found.frames = static_cast<int>(number(bytes, at + 8, 4));
        if (type == "IEND") break;  // cameras add bytes of their own
        at += 12 + length;          // length, type, content, checksum
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
    bool has_gain_map = false;
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
            found.exif = in_exif(content);
        if (marker == 0xE1 && starts_with(content, xmp_prefix) && !found.xmp) found.xmp = in_xmp(content);
        if (marker == 0xE1 && content.find(" hdrgm:Version=\"") != std::string::npos) has_gain_map = true;
        if (marker == 0xE2 && starts_with(content, pictures_prefix))
            found.frames = in_directory(content.substr(pictures_prefix.size()), pictures_tag).value_or(1);
        at += 2 + length;
    }
    if (has_gain_map) found.frames = 1;  // the second picture of Ultra HDR only brightens the first
    return found;
}

}  // namespace

Header read_header(const std::string& bytes) {
    Found found;
    if (starts_with(bytes, png_signature)) found = in_png(bytes);
    if (starts_with(bytes, "\xFF\xD8")) found = in_jpeg(bytes);
    if (starts_with(bytes, "BM")) found = in_bmp(bytes);
    const auto& in_text = found.raw_profile ? found.raw_profile : found.xmp;
    return {found.exif ? *found.exif : in_text.value_or(1), found.components, found.frames, found.whole};
}

}  // namespace metaldefect
