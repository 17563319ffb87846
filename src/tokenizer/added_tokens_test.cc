#include "tokenizer/added_tokens.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace wideep::tokenizer {
namespace {

// "text|[id:token]|text": what the matcher makes of a text.
std::string segments(const std::vector<AddedToken>& tokens, std::string_view text) {
  std::vector<Segment> segments;
  AddedTokenMatcher(tokens).split(text, segments);
  std::string shown;
  for (const Segment& segment : segments) {
    const std::string part(text.substr(segment.span.begin, segment.span.size()));
    if (!shown.empty()) shown += '|';
    shown += segment.id < 0 ? part : fmt::format("[{}:{}]", segment.id, part);
  }
  return shown;
}

TEST(AddedTokens, TheLongestTokenFromTheLeft) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "<a>"},
                                          {.id = 2, .content = "<a>b"},
                                          {.id = 3, .content = "<abc>"},
                                          {.id = 4, .content = "b<"},
                                          {.id = 5, .content = ""}};
  EXPECT_EQ(segments(tokens, "x<a>y"), "x|[1:<a>]|y");
  EXPECT_EQ(segments(tokens, "<a>b<a>"), "[2:<a>b]|[1:<a>]");
  EXPECT_EQ(segments(tokens, "<abb<abc>"), "<ab|[4:b<]|abc>");
  EXPECT_EQ(segments(tokens, "<abc"), "<abc");
  EXPECT_EQ(segments(tokens, "<a"), "<a");
  EXPECT_EQ(segments(tokens, ""), "");
  EXPECT_EQ(segments({}, "<a>"), "<a>");
}

TEST(AddedTokens, SingleWordsStandAlone) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "cat", .single_word = true}};
  EXPECT_EQ(segments(tokens, "cat"), "[1:cat]");
  EXPECT_EQ(segments(tokens, "(cat)"), "(|[1:cat]|)");
  for (const char* text : {"cats", "bobcat", "cat_", "cat1", "cat\u0301", "écat", "кcat"}) {
    EXPECT_EQ(segments(tokens, text), text);
  }
}

TEST(AddedTokens, TakeTheSpaceAroundThem) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "<l>", .lstrip = true},
                                          {.id = 2, .content = "<r>", .rstrip = true},
                                          {.id = 3, .content = " "}};
  EXPECT_EQ(segments(tokens, "a\t\u3000<l>\tb"), "a|[1:\t\u3000<l>]|\tb");
  EXPECT_EQ(segments(tokens, "a\t<r>\n \u3000b"), "a\t|[2:<r>\n \u3000]|b");
  // What a token took is not given to the next one.
  EXPECT_EQ(segments(tokens, "<r>\t<l>"), "[2:<r>\t]|[1:<l>]");
  EXPECT_EQ(segments(tokens, "<r>  "), "[2:<r>  ]");
  EXPECT_EQ(segments(tokens, " \t<l>"), "[3: ]|[1:\t<l>]");
}

}  // namespace
}  // namespace wideep::tokenizer
