#include "tokenizer/tokenizer_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"
#include "tokenizer/tokenizer_testing.h"

namespace wideep::tokenizer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The error of the small tokenizer with the value at a JSON pointer replaced.
std::string error_with(const char* pointer, const char* value) {
  Json document = small_tokenizer_json();
  document[Json::json_pointer(pointer)] = Json::parse(value);
  return error_of(make_tokenizer(document));
}

TEST(TokenizerSpec, ReadsEveryPart) {
  Json document = small_tokenizer_json();
  document["normalizer"] = Json::parse(R"({"type": "Sequence", "normalizers": [{"type": "NFC"}]})");
  document["pre_tokenizer"] = Json::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"String": "-"}, "behavior": "Removed", "invert": true},
      {"type": "Digits", "individual_digits": true}, {"type": "Digits"},
      {"type": "ByteLevel", "add_prefix_space": true, "use_regex": false}]})");
  const TokenizerSpec spec = parse_tokenizer_spec(document, "f").value();
  EXPECT_TRUE(spec.nfc);
  ASSERT_EQ(spec.pre_tokenizer.splits.size(), 3u);
  EXPECT_EQ(spec.pre_tokenizer.splits[0].behavior, SplitBehavior::kRemoved);
  EXPECT_TRUE(spec.pre_tokenizer.splits[0].invert && !spec.pre_tokenizer.splits[0].is_regex);
  EXPECT_EQ(spec.pre_tokenizer.splits[0].path, "pre_tokenizer.pretokenizers[0].pattern");
  EXPECT_EQ(spec.pre_tokenizer.splits[1].behavior, SplitBehavior::kIsolated);
  EXPECT_EQ(spec.pre_tokenizer.splits[2].behavior, SplitBehavior::kContiguous);
  EXPECT_TRUE(spec.pre_tokenizer.add_prefix_space && !spec.pre_tokenizer.use_regex);
  EXPECT_EQ(spec.bpe.merges[2], std::pair(std::string("he"), std::string("ll")));
  EXPECT_EQ(spec.added_tokens[1].content, "<e>");
  EXPECT_TRUE(spec.added_tokens[1].special && !spec.added_tokens[1].normalized);
  EXPECT_THAT(spec.prefix, ElementsAre(260));
  EXPECT_THAT(spec.suffix, ElementsAre());
}

TEST(TokenizerSpec, TemplatesOfASequenceGoAroundEachOther) {
  Json document = small_tokenizer_json();
  document["post_processor"] = Json::parse(R"({"type": "Sequence", "processors": [
      {"type": "ByteLevel"},
      {"type": "TemplateProcessing", "special_tokens": {"<s>": {"ids": [260]}},
       "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]},
      {"type": "TemplateProcessing", "special_tokens": {"<e>": {"ids": [261, 0]}},
       "single": [{"SpecialToken": {"id": "<e>"}}, {"Sequence": {"id": "A"}},
                  {"SpecialToken": {"id": "<e>"}}]}]})");
  const TokenizerSpec spec = parse_tokenizer_spec(document, "f").value();
  EXPECT_THAT(spec.prefix, ElementsAre(261, 0, 260));
  EXPECT_THAT(spec.suffix, ElementsAre(261, 0));
}

TEST(TokenizerSpec, ErrorsNameFileAndPath) {
  EXPECT_EQ(error_with("/model/type", R"("Unigram")"),
            "tokenizer.json: model: type \"Unigram\" is not supported: only BPE (byte-level BPE)");
  EXPECT_EQ(error_with("/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFD"}]})"),
            "tokenizer.json: normalizer.normalizers[0]: type \"NFD\" is not supported: only NFC, "
            "Sequence or null (byte-level BPE)");
  EXPECT_EQ(error_with("/model/merges", R"(["a b", 3])"),
            "tokenizer.json: model.merges: [1]: must be \"a b\" or [\"a\", \"b\"]");
  EXPECT_EQ(error_with("/model/vocab/he", "-1"),
            "tokenizer.json: model.vocab: \"he\": id must be an integer from 0 to 1048575");
}

TEST(TokenizerSpec, RefusesWhatItDoesNotSupport) {
  const struct {
    const char* pointer;
    const char* value;
    const char* error;
  } cases[] = {
      {"/model", "null", "model: must be an object"},
      {"/model/vocab", "[]", "model.vocab: must be an object of token -> id"},
      {"/model/vocab/he", "97", "model.vocab: \"he\": id 97 is another token's too"},
      {"/model/vocab/he", "1.0", "id must be an integer"},
      {"/model/vocab/he", "18446744073709551615", "id must be an integer"},
      {"/model/merges", "{}", "model.merges: must be a list"},
      {"/model/merges", R"(["a b c"])", "[0]: must be \"a b\""},
      {"/model/merges", R"([["a", "b", "c"]])", "[0]: must be \"a b\""},
      {"/model/merges", R"(["h x"])", "\"hx\" is not in model.vocab"},
      {"/model/byte_fallback", "true", "byte_fallback is not supported"},
      {"/model/dropout", "0.1", "dropout must be null"},
      {"/model/unk_token", "[]", "model.unk_token: must be a string"},
      {"/model/continuing_subword_prefix", R"("##")", "continuing_subword_prefix \"##\" is not"},
      {"/model/end_of_word_suffix", R"("</w>")", "end_of_word_suffix \"</w>\" is not"},
      {"/model/ignore_merges", "1", "model.ignore_merges: must be true or false"},
      {"/normalizer", "[]", "normalizer: must be an object"},
      {"/pre_tokenizer", "null", "pre_tokenizer: must hold a ByteLevel step"},
      {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": []})", "must hold a ByteLevel"},
      {"/pre_tokenizer", R"({"type": "Metaspace"})", "type \"Metaspace\" is not supported"},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]})",
       "pre_tokenizer.pretokenizers[1]: ByteLevel must be the last"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": "x", "behavior": "Isolated"})",
       "pre_tokenizer.pattern: must be {\"Regex\": ...}"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Cut"})",
       "pre_tokenizer.behavior: \"Cut\": must be Isolated"},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "[a&&b]"},
           "behavior": "Isolated"}, {"type": "ByteLevel"}]})",
       "pre_tokenizer.pretokenizers[0].pattern: && in a class"},
      {"/post_processor", R"({"type": "BertProcessing"})", "type \"BertProcessing\" is not"},
      {"/post_processor/single", "[]", "post_processor.single: the text is not in the template"},
      {"/post_processor/single", R"([{"Sequence": {}}, {"Sequence": {}}])",
       "post_processor.single[1]: the text stands in the template twice"},
      {"/post_processor/single", R"([{"Other": {}}])", "\"SpecialToken\" is missing"},
      {"/post_processor/single", R"([{"SpecialToken": {"id": "<x>"}}, {"Sequence": {}}])",
       "\"<x>\" is not in post_processor.special_tokens"},
      {"/post_processor/special_tokens/<s>/ids", "[999]", "post_processor: id 999 is not a token"},
      {"/post_processor/special_tokens/<s>/ids", "[-1]",
       "post_processor.special_tokens.<s>.ids[0]: must be an integer from 0"},
      {"/decoder", "null", "decoder: must be ByteLevel"},
      {"/decoder", R"({"type": "WordPiece"})", "type \"WordPiece\" is not supported"},
      {"/decoder", R"({"type": "Sequence", "decoders": []})", "decoder: must hold ByteLevel"},
      {"/added_tokens", "3", "added_tokens: must be a list"},
      {"/added_tokens/0/id", R"("a")", "added_tokens[0].id: must be an integer from 0"},
      {"/added_tokens/0/content", "7", "added_tokens[0].content: must be a string"},
      {"/added_tokens/0/lstrip", "7", "added_tokens[0].lstrip: must be true or false"},
      {"/added_tokens/0/id", "3", "\"<s>\" has id 3, but that is the id of"},
      {"/added_tokens/1/content", R"("<s>")", "\"<s>\" has id 261, but it has id 260 elsewhere"},
      {"/added_tokens/1/content", R"("he")", "\"he\" has id 261, but it has id 256 elsewhere"},
  };
  for (const auto& [pointer, value, error] : cases) {
    EXPECT_THAT(error_with(pointer, value), HasSubstr(error)) << pointer << " = " << value;
  }
  for (const char* key : {"model", "pre_tokenizer", "decoder"}) {
    Json document = small_tokenizer_json();
    document.erase(key);
    EXPECT_EQ(error_of(make_tokenizer(document)),
              std::string("tokenizer.json: \"") + key + "\" is missing");
  }
  EXPECT_EQ(error_of(make_tokenizer(Json::array())), "tokenizer.json: must be an object");
}

}  // namespace
}  // namespace wideep::tokenizer
