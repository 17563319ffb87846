// The byte-level alphabet of GPT-2: every byte has a printable character, so that a vocabulary of
// bytes can be written as JSON strings. Printable Latin-1 stands for itself, the other 68 bytes are
// U+0100 and up in order: a space is "\u0120".
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace wideep::tokenizer {

// The character that stands for `byte`, in UTF-8.
std::string byte_level_character(unsigned char byte);

// The bytes that `token` (well-formed UTF-8) stands for; nullopt where one of its characters is not
// of the alphabet.
std::optional<std::string> byte_level_bytes(std::string_view token);

}  // namespace wideep::tokenizer
