#include "base/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wideep {
namespace {

using testing::ElementsAre;

TEST(TextTest, ParseIntTakesWholeDecimalIntegersOnly) {
  EXPECT_EQ(parse_int("0"), 0);
  EXPECT_EQ(parse_int("-17"), -17);
  EXPECT_EQ(parse_int("9223372036854775807"), INT64_MAX);
  for (const char* text :
       {"", " 1", "1 ", "1x", "0x10", "1.0", "1e3", "--1", "+1", "9223372036854775808"}) {
    EXPECT_EQ(parse_int(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(TextTest, ParseDoubleTakesFiniteNumbersOnly) {
  EXPECT_EQ(parse_double("0.5"), 0.5);
  EXPECT_EQ(parse_double("-1e-3"), -1e-3);
  EXPECT_EQ(parse_double("7"), 7.0);
  for (const char* text : {"", "nan", "inf", "-inf", "1e999", "1.5x", " 1", "1,5"}) {
    EXPECT_EQ(parse_double(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(TextTest, Trim) {
  EXPECT_EQ(trim(" \t a b \r\n"), "a b");
  EXPECT_EQ(trim("a"), "a");
  EXPECT_EQ(trim(" \n"), "");
  EXPECT_EQ(trim(""), "");
}

TEST(TextTest, SplitKeepsEmptyParts) {
  EXPECT_THAT(split("a,b,c", ','), ElementsAre("a", "b", "c"));
  EXPECT_THAT(split(",a,,", ','), ElementsAre("", "a", "", ""));
  EXPECT_THAT(split("", ','), ElementsAre(""));
}

TEST(TextTest, ToLowerChangesAsciiLettersOnly) {
  EXPECT_EQ(to_lower("WideEP_4 \xC3\x84"), "wideep_4 \xC3\x84");
}

TEST(TextTest, NearestWord) {
  static constexpr std::string_view kKeys[] = {"num_slots", "layer_updates_per_iter",
                                               "initial_global_assignments", "tp"};
  EXPECT_EQ(nearest_word("num_slot", kKeys), "num_slots");
  EXPECT_EQ(nearest_word("NUM_SLOTS", kKeys), "num_slots");
  EXPECT_EQ(nearest_word("layer_update_per_iters", kKeys), "layer_updates_per_iter");
  EXPECT_EQ(nearest_word("pt", kKeys), "tp");            // two letters may change in a short word
  EXPECT_EQ(nearest_word("max_batch_size", kKeys), "");  // nothing near
  EXPECT_EQ(nearest_word("num_slots", {}), "");
}

TEST(TextTest, NearestWordTakesTheFirstOfEqualDistances) {
  static constexpr std::string_view kWords[] = {"cat", "car"};
  EXPECT_EQ(nearest_word("cap", kWords), "cat");
}

}  // namespace
}  // namespace wideep
