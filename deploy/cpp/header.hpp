// What an image file says beside its pixels, and what the image reader does not pass on.
#pragma once

#include <string>

namespace metaldefect {

struct Header {
    int orientation = 1;  // of EXIF, or of XMP where EXIF names none: 1 is upright, 2 to 8 are turned or mirrored
    int components = 0;   // of a JPEG: 1 is grey, 3 colour, 4 CMYK; 0 for other files
    int frames = 1;       // more are an animation in PNG, or several pictures in JPEG
    bool whole = true;    // false for a cut or damaged file, for which the image reader makes up pixels
};

// Reads the header of a PNG's, JPEG's or BMP's bytes; of other or broken bytes it says what a plain file would say.
Header read_header(const std::string& bytes);

}  // namespace metaldefect
