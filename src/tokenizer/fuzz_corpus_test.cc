// Replays the fuzzers' corpora in the ordinary build.
#include <gtest/gtest.h>

#include "base/formats_testing.h"
#include "tokenizer/fuzz_testing.h"

namespace wideep::tokenizer {
namespace {

constexpr const char* kCorpus = WIDEEP_SOURCE_DIR "/tests/corpus/";

TEST(TokenizerCorpus, TokenizerJson) {
  EXPECT_GT(replay_corpus(std::string(kCorpus) + "tokenizer_json", check_tokenizer_json), 0);
}

TEST(TokenizerCorpus, ChatTemplate) {
  EXPECT_GT(replay_corpus(std::string(kCorpus) + "chat_template", check_chat_template), 0);
}

}  // namespace
}  // namespace wideep::tokenizer
