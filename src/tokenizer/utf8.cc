#include "tokenizer/utf8.h"

#include <algorithm>
#include <cstdint>

namespace wideep::tokenizer {
namespace {

enum class SequenceKind { kWellFormed, kIllFormed, kCutOff };

struct Sequence {
  SequenceKind kind;
  int length;  // of the well-formed sequence, or of the maximal part of an ill-formed one
};

// Table 3-7 of the Unicode Standard: what may follow each lead byte. Only the second byte's range
// depends on the lead.
struct Lead {
  int length;  // 0: not a lead byte
  unsigned char second_min;
  unsigned char second_max;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2 || byte > 0xF4) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte < 0xF0) {
    return {3, byte == 0xE0 ? uint8_t{0xA0} : uint8_t{0x80},
            byte == 0xED ? uint8_t{0x9F} : uint8_t{0xBF}};
  }
  return {4, byte == 0xF0 ? uint8_t{0x90} : uint8_t{0x80},
          byte == 0xF4 ? uint8_t{0x8F} : uint8_t{0xBF}};
}

Sequence sequence_at(std::string_view bytes, size_t position) {
  const Lead lead = lead_of(static_cast<unsigned char>(bytes[position]));
  if (lead.length == 0) return {SequenceKind::kIllFormed, 1};
  for (int i = 1; i < lead.length; ++i) {
    if (position + i == bytes.size()) return {SequenceKind::kCutOff, i};
    const auto byte = static_cast<unsigned char>(bytes[position + i]);
    const unsigned char min = i == 1 ? lead.second_min : 0x80;
    const unsigned char max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {SequenceKind::kIllFormed, i};
  }
  return {SequenceKind::kWellFormed, lead.length};
}

}  // namespace

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const Sequence sequence = sequence_at(text, position);
    if (sequence.kind != SequenceKind::kWellFormed) return position;
    position += sequence.length;
  }
  return std::nullopt;
}

char32_t next_code_point(std::string_view text, size_t& position) {
  const auto lead = static_cast<unsigned char>(text[position]);
  const int length = lead_of(lead).length;
  static constexpr unsigned char kLeadBits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  char32_t code_point = lead & kLeadBits[length];
  for (int i = 1; i < length; ++i) {
    code_point = (code_point << 6) | (static_cast<unsigned char>(text[position + i]) & 0x3F);
  }
  position += length;
  return code_point;
}

void append_code_point(std::string& text, char32_t code_point) {
  const auto tail = [&](int shift) {
    text += static_cast<char>(0x80 | ((code_point >> shift) & 0x3F));
  };
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    text += static_cast<char>(0xC0 | (code_point >> 6));
    tail(0);
  } else if (code_point < 0x10000) {
    text += static_cast<char>(0xE0 | (code_point >> 12));
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xF0 | (code_point >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

size_t count_code_points(std::string_view text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
}

size_t append_lossy(std::string_view bytes, std::string& text) {
  size_t position = 0;
  while (position < bytes.size()) {
    const Sequence sequence = sequence_at(bytes, position);
    if (sequence.kind == SequenceKind::kCutOff) break;
    if (sequence.kind == SequenceKind::kWellFormed) {
      text += bytes.substr(position, sequence.length);
    } else {
      text += kReplacementCharacter;
    }
    position += sequence.length;
  }
  return position;
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_python_space(char32_t c) {
  return is_white_space(c) || (c >= 0x1C && c <= 0x1F);
}

}  // namespace wideep::tokenizer
