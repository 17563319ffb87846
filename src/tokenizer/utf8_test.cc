#include "tokenizer/utf8.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "tokenizer/byte_level.h"

namespace wideep::tokenizer {
namespace {

std::string lossy(std::string_view bytes) {
  std::string text;
  const size_t taken = append_lossy(bytes, text);
  return text + "|" + std::string(bytes.substr(taken));
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(find_invalid_utf8(""), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("aé日👩\U0010FFFF"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("ab\xFF"), 2u);
  EXPECT_EQ(find_invalid_utf8("a\xC3"), 1u);             // cut off
  EXPECT_EQ(find_invalid_utf8("\xC0\x80"), 0u);          // overlong
  EXPECT_EQ(find_invalid_utf8("\xE0\x9F\xBF"), 0u);      // overlong
  EXPECT_EQ(find_invalid_utf8("\xED\xA0\x80"), 0u);      // surrogate
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // beyond U+10FFFF
  EXPECT_EQ(find_invalid_utf8("\x80"), 0u);              // no lead
  EXPECT_EQ(find_invalid_utf8("日\xE6\x97x"), 3u);
}

TEST(Utf8, EveryCodePointComesBack) {
  std::string text;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    text.clear();
    append_code_point(text, c);
    size_t position = 0;
    ASSERT_EQ(next_code_point(text, position), c);
    ASSERT_EQ(position, text.size());
    ASSERT_EQ(find_invalid_utf8(text), std::nullopt);
    ASSERT_EQ(count_code_points(text), 1u);
  }
}

TEST(Utf8, ReplacesMaximalParts) {
  EXPECT_EQ(lossy("aé"), "aé|");
  EXPECT_EQ(lossy("a\xFF z"), "a\uFFFD z|");
  EXPECT_EQ(lossy("\xE6\x97z"), "\uFFFDz|");                // two bytes of one cut sequence
  EXPECT_EQ(lossy("\xF0\x9F\x91\xF0"), "\uFFFD|\xF0");      // and the next one may still complete
  EXPECT_EQ(lossy("\xE0\x80\x80"), "\uFFFD\uFFFD\uFFFD|");  // overlong: none of it belongs together
  EXPECT_EQ(lossy("\xF0\x9F\x91"), "|\xF0\x9F\x91");
}

TEST(Utf8, WhiteSpace) {
  for (const char32_t c : {U' ', U'\t', U'\n', U'\u0085', U'\u00A0', U'\u2003', U'\u3000'}) {
    EXPECT_TRUE(is_white_space(c) && is_python_space(c)) << static_cast<int>(c);
  }
  for (const char32_t c : {U'a', U'\u200B', U'\u180E', U'\0'}) {
    EXPECT_FALSE(is_white_space(c) || is_python_space(c)) << static_cast<int>(c);
  }
  EXPECT_TRUE(is_python_space(0x1C) && !is_white_space(0x1C));
}

TEST(ByteLevel, EveryByteHasACharacterOfItsOwn) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string character = byte_level_character(static_cast<unsigned char>(byte));
    EXPECT_EQ(byte_level_bytes(character), std::string(1, static_cast<char>(byte)));
    EXPECT_EQ(all.find(character), std::string::npos);
    all += character;
  }
  EXPECT_EQ(byte_level_character(' '), "Ġ");
  EXPECT_EQ(byte_level_character('\n'), "Ċ");
  EXPECT_EQ(byte_level_character(0xAD), "Ń");
  EXPECT_EQ(byte_level_character('~'), "~");
}

TEST(ByteLevel, OtherCharactersStandForNoByte) {
  for (const char* token : {" ", "a b", "｜", "\u00AD", "\u0144", "\u00A0"}) {
    EXPECT_EQ(byte_level_bytes(token), std::nullopt) << token;
  }
  EXPECT_EQ(byte_level_bytes(""), "");
}

}  // namespace
}  // namespace wideep::tokenizer
