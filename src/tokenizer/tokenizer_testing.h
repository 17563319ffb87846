// For tests of tokenizers: a small tokenizer.json to change, the embedded model, random texts.
#pragma once

#include <string>

#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace wideep::tokenizer {

// All 256 bytes (ids 0 to 255), "he", "ll", "hell", "hello" (256 to 259), <s> (260) and <e> (261),
// BOS <s> before every text.
inline Json small_tokenizer_json() {
  Json document = Json::parse(R"({
    "added_tokens": [{"id": 260, "content": "<s>", "special": true},
                     {"id": 261, "content": "<e>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [260], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {}, "merges": ["h e", "l l", ["he", "ll"], "hell o"]}})");
  Json& vocab = document["model"]["vocab"];
  for (int byte = 0; byte < 256; ++byte) {
    vocab[byte_level_character(static_cast<unsigned char>(byte))] = byte;
  }
  int id = 256;
  for (const char* token : {"he", "ll", "hell", "hello"}) vocab[token] = id++;
  return document;
}

inline Result<Tokenizer> make_tokenizer(const Json& document, const TokenizerConfig& config = {}) {
  const std::string name = "tokenizer.json";
  ASSIGN_OR_RETURN(TokenizerSpec spec, parse_tokenizer_spec(document, name));
  return Tokenizer::create(std::move(spec), config, name);
}

// The model that the program is delivered with, or where it lies beside a checkout.
inline std::string embedded_model_folder() {
  const std::string own = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";
  return is_directory(own) ? own : WIDEEP_SOURCE_DIR "/../shared/models/dsv3-tiny";
}

// A text of up to `max_length` characters: letters, white space and digits, whole words, and
// any other code points of Unicode.
inline std::string random_text(Random& random, int max_length) {
  static constexpr const char* kFragments[] = {"hello",       " the",    "<s>",  "\r\n",
                                               "  ",          "e\u0301", "日本", "мир",
                                               "👩‍👧", "don't",   "12",   "<｜User｜>"};
  std::string text;
  const int length = static_cast<int>(random.below(max_length + 1));
  for (int i = 0; i < length; ++i) {
    const uint64_t kind = random.below(10);
    if (kind < 4) {
      text += static_cast<char>(' ' + random.below(95));
    } else if (kind < 7) {
      text += kFragments[random.below(std::size(kFragments))];
    } else {
      // Not a surrogate; sparse planes are as likely as full ones.
      const char32_t limit = char32_t{1} << (8 + random.below(13));
      const char32_t c = static_cast<char32_t>(random.below(limit)) % 0x110000;
      append_code_point(text, c >= 0xD800 && c < 0xE000 ? U'\uFFFD' : c);
    }
  }
  return text;
}

}  // namespace wideep::tokenizer
