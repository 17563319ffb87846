#include "tokenizer/byte_level.h"

#include <array>

#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr int kFirstSubstitute = 0x100;
constexpr int kNumSubstitutes = 68;

struct Alphabet {
  std::array<char32_t, 256> characters{};
  std::array<unsigned char, kNumSubstitutes> substituted{};  // [U+0100 + i] -> byte
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  int substitutes = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (stands_for_itself(byte)) {
      alphabet.characters[byte] = static_cast<char32_t>(byte);
    } else {
      alphabet.characters[byte] = static_cast<char32_t>(kFirstSubstitute + substitutes);
      alphabet.substituted[substitutes++] = static_cast<unsigned char>(byte);
    }
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

std::string byte_level_character(unsigned char byte) {
  std::string character;
  append_code_point(character, kAlphabet.characters[byte]);
  return character;
}

std::optional<std::string> byte_level_bytes(std::string_view token) {
  std::string bytes;
  for (size_t position = 0; position < token.size();) {
    const char32_t c = next_code_point(token, position);
    if (c >= kFirstSubstitute && c < kFirstSubstitute + kNumSubstitutes) {
      bytes += static_cast<char>(kAlphabet.substituted[c - kFirstSubstitute]);
    } else if (c < kFirstSubstitute && stands_for_itself(static_cast<int>(c))) {
      bytes += static_cast<char>(c);
    } else {
      return std::nullopt;
    }
  }
  return bytes;
}

}  // namespace wideep::tokenizer
