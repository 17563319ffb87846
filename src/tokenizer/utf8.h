// UTF-8: validation, code points, and lossy decoding of bytes that come in pieces.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace wideep::tokenizer {

// The offset of the first byte that does not belong to well-formed UTF-8, nullopt where all do.
std::optional<size_t> find_invalid_utf8(std::string_view text);

// The code point that begins at `position`, which moves behind it. `text` is well-formed.
char32_t next_code_point(std::string_view text, size_t& position);

void append_code_point(std::string& text, char32_t code_point);

// Number of code points of well-formed text.
size_t count_code_points(std::string_view text);

// Appends `bytes` to `text`, with each maximal part of an ill-formed sequence as one U+FFFD (the
// Unicode Standard's recommended practice, 3.9). A sequence that is cut off by the end of `bytes`
// and could still become well-formed is left out. Returns how many bytes were taken: all but at
// most 3.
size_t append_lossy(std::string_view bytes, std::string& text);

// What U+FFFD looks like in UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// White space as Unicode's White_Space and Python's str.isspace() have it; they differ only in the
// separators U+001C to U+001F, which Python counts.
bool is_white_space(char32_t code_point);
bool is_python_space(char32_t code_point);

}  // namespace wideep::tokenizer
