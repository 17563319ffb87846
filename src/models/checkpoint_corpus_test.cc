// Replays the fuzzers' corpora in the ordinary build.
#include <gtest/gtest.h>

#include "base/formats_testing.h"
#include "models/checkpoint_index_testing.h"

namespace wideep::models {
namespace {

TEST(Corpus, CheckpointIndex) {
  EXPECT_GT(
      replay_corpus(WIDEEP_SOURCE_DIR "/tests/corpus/checkpoint_index", check_checkpoint_index), 0);
}

}  // namespace
}  // namespace wideep::models
