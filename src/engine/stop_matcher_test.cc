#include "engine/stop_matcher.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace wideep::engine {
namespace {

TEST(StopMatcher, WithoutStopsTextPassesAtOnce) {
  StopMatcher stops({});
  EXPECT_EQ(stops.add("abc"), "abc");
  EXPECT_EQ(stops.finish(), "");
  EXPECT_FALSE(stops.matched());
}

TEST(StopMatcher, HoldsBackWhatCouldBeginAStop) {
  StopMatcher stops({"END", "\n\n"});
  EXPECT_EQ(stops.add("one E"), "one ");
  EXPECT_EQ(stops.add("N"), "");
  EXPECT_EQ(stops.add("T\n"), "ENT");
  EXPECT_EQ(stops.add("x"), "\nx");
  EXPECT_EQ(stops.add("EN"), "");
  EXPECT_EQ(stops.finish(), "EN");
  EXPECT_FALSE(stops.matched());
}

TEST(StopMatcher, EndsBeforeTheFirstStop) {
  StopMatcher stops({"END", "N"});
  EXPECT_EQ(stops.add("x END y"), "x E");  // "N" is complete first
  EXPECT_TRUE(stops.matched());
  EXPECT_EQ(stops.add("more"), "");
  EXPECT_EQ(stops.finish(), "");
}

TEST(StopMatcher, AStopMayBeginAnewWithinABeginning) {
  StopMatcher stops({"aab"});
  EXPECT_EQ(stops.add("aa"), "");
  EXPECT_EQ(stops.add("a"), "a");
  EXPECT_EQ(stops.add("b"), "");
  EXPECT_TRUE(stops.matched());
}

// In whatever pieces it comes, the text ends before the first occurrence in the whole.
TEST(StopMatcher, PiecesDoNotMatter) {
  Random random(1);
  for (int round = 0; round < 2000; ++round) {
    const auto word = [&](uint64_t longest) {
      std::string text;
      for (uint64_t i = 1 + random.below(longest); i > 0; --i) {
        text += static_cast<char>('a' + random.below(2));
      }
      return text;
    };
    const std::string text = word(30);
    const std::vector<std::string> words = {word(5), word(5)};
    StopMatcher whole(words);
    std::string expected = whole.add(text);
    expected += whole.finish();
    StopMatcher stops(words);
    std::string shown;
    for (size_t at = 0; at < text.size();) {
      const size_t length = 1 + random.below(4);
      shown += stops.add(std::string_view(text).substr(at, length));
      at += length;
    }
    shown += stops.finish();
    EXPECT_EQ(shown, expected);
    EXPECT_EQ(shown, text.substr(0, shown.size()));
    const auto in_text = [&](const std::string& word) {
      return text.find(word) != std::string::npos;
    };
    EXPECT_EQ(stops.matched(), in_text(words[0]) || in_text(words[1]));
  }
}

}  // namespace
}  // namespace wideep::engine
