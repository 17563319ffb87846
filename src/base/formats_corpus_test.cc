// Replays the fuzzers' corpora in the ordinary build.
#include <gtest/gtest.h>

#include "base/formats_testing.h"

namespace wideep {
namespace {

constexpr const char* kCorpus = WIDEEP_SOURCE_DIR "/tests/corpus/";

TEST(Corpus, Safetensors) {
  EXPECT_GT(replay_corpus(std::string(kCorpus) + "safetensors", check_safetensors), 0);
}

TEST(Corpus, Npy) {
  EXPECT_GT(replay_corpus(std::string(kCorpus) + "npy", check_npy), 0);
}

TEST(Corpus, Json) {
  EXPECT_GT(replay_corpus(std::string(kCorpus) + "json", check_json), 0);
}

TEST(Corpus, Metrics) {
  EXPECT_GT(replay_corpus(std::string(kCorpus) + "metrics", check_metrics), 0);
}

}  // namespace
}  // namespace wideep
