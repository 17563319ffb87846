// Replays the fuzzers' corpora in the ordinary build.
#include <gtest/gtest.h>

#include "eplb/load_testing.h"

namespace wideep::eplb {
namespace {

constexpr const char* kCorpus = WIDEEP_SOURCE_DIR "/tests/corpus/";

TEST(Corpus, Sglang) {
  EXPECT_GT(replay_corpus(std::string(kCorpus) + "sglang", check_sglang), 0);
}

TEST(Corpus, Csv) {
  EXPECT_GT(replay_corpus(std::string(kCorpus) + "csv", check_csv), 0);
}

TEST(Corpus, RankFile) {
  EXPECT_GT(replay_corpus(std::string(kCorpus) + "rank_file", check_rank_file), 0);
}

}  // namespace
}  // namespace wideep::eplb
