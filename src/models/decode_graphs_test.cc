#include "models/decode_graphs.h"

#include <gtest/gtest.h>

namespace wideep::models {
namespace {

TEST(DecodeGraphs, PadToTheNextSize) {
  const DecodeGraphs graphs({1, 4, 8}, true);
  EXPECT_EQ(graphs.padded(0), 0);
  EXPECT_EQ(graphs.padded(1), 1);
  EXPECT_EQ(graphs.padded(2), 4);
  EXPECT_EQ(graphs.padded(8), 8);
  EXPECT_EQ(graphs.padded(9), 0);
}

TEST(DecodeGraphs, WithoutPaddingSizesFitExactly) {
  const DecodeGraphs graphs({1, 4}, false);
  EXPECT_EQ(graphs.padded(4), 4);
  EXPECT_EQ(graphs.padded(3), 0);
  EXPECT_EQ(DecodeGraphs({}, true).padded(1), 0);
}

}  // namespace
}  // namespace wideep::models
