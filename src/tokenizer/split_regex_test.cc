#include "tokenizer/split_regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"

namespace wideep::tokenizer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> matches_of(const SplitRegex& regex, std::string_view text) {
  MatchScratch scratch;
  std::vector<Span> spans;
  const Status status = regex.find_all(text, scratch, spans);
  EXPECT_TRUE(status.is_ok()) << status.message();
  std::vector<std::string> matches;
  for (const Span& span : spans) matches.emplace_back(text.substr(span.begin, span.size()));
  return matches;
}

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  const Result<SplitRegex> regex = SplitRegex::compile(pattern);
  EXPECT_TRUE(regex.is_ok()) << regex.status().message();
  return matches_of(*regex, text);
}

TEST(SplitRegex, FindsAllMatchesInOrder) {
  EXPECT_THAT(matches(R"(\p{N}{1,3})", "12345 x٣"), ElementsAre("123", "45", "٣"));
  EXPECT_THAT(matches("[一-龥]+", "a日本b語"), ElementsAre("日本", "語"));
  EXPECT_THAT(matches(R"(\s+(?!\S)|\s+)", "a   b "), ElementsAre("  ", " ", " "));
  EXPECT_THAT(matches("(?i:'S|'t)", "It's 'T"), ElementsAre("'s", "'T"));
  EXPECT_THAT(matches("(a)(b)", "abab"), ElementsAre("ab", "ab"));
  EXPECT_THAT(matches("x", ""), ElementsAre());
}

TEST(SplitRegex, EmptyMatchesAreNotFoundBehindAMatch) {
  EXPECT_THAT(matches("a*", "baé"), ElementsAre("", "a", ""));
  EXPECT_THAT(matches("(?=é)", "éé"), ElementsAre("", ""));
}

TEST(SplitRegex, MeansWhatOnigurumaMeans) {
  EXPECT_THAT(matches(R"(\s)", "\u180E\u3000\u0085"), ElementsAre("\u3000", "\u0085"));
  EXPECT_THAT(matches(R"([\s])", "\u180E\u2028"), ElementsAre("\u2028"));
  EXPECT_THAT(matches(R"([^\s])", "\u180E\u2028"), ElementsAre("\u180E"));
  EXPECT_THAT(matches(R"([\S]\S)", "\u180Ea b"), ElementsAre("\u180Ea"));
  EXPECT_THAT(matches(R"(\w+)", "a\u0301_‿1-b"), ElementsAre("a\u0301_‿1", "b"));
  EXPECT_THAT(matches(R"(\W+)", "a-+b"), ElementsAre("-+"));
  EXPECT_THAT(matches(R"(\h+)", "xyzAf09 g"), ElementsAre("Af09"));
  EXPECT_THAT(matches(R"(\bб\b)", "б бб"), ElementsAre("б"));
  EXPECT_THAT(matches(R"(^a$)", "a\na\nb"), ElementsAre("a", "a"));
  EXPECT_THAT(matches(R"(a{,2})", "aaa"), ElementsAre("aa", "a"));
  EXPECT_THAT(matches(R"({a{b},)", "{a{b},"), ElementsAre("{a{b},"));
  EXPECT_THAT(matches(R"(\u65e5[\u672C]\v\/)", "日本\x0B/"), ElementsAre("日本\x0B/"));
  EXPECT_THAT(matches(R"(\A\p{Han}\P{Han}\p{^L}\z)", "日a1"), ElementsAre("日a1"));
}

TEST(SplitRegex, LiteralsAreNotPatterns) {
  EXPECT_THAT(matches_of(*SplitRegex::literal("a.[\\E"), "axa.[\\E"), ElementsAre("a.[\\E"));
}

TEST(SplitRegex, RefusesWhatItCannotTranslate) {
  const auto error = [](std::string_view pattern) {
    return error_of(SplitRegex::compile(pattern));
  };
  EXPECT_THAT(error("[a[b]]"), HasSubstr("a class in a class at byte 2"));
  EXPECT_THAT(error("[a&&b]"), HasSubstr("&& in a class"));
  EXPECT_THAT(error("[[:alpha:]]"), HasSubstr("a class in a class"));
  EXPECT_THAT(error("[]a]"), HasSubstr("] first in a class"));
  EXPECT_THAT(error("[abc"), HasSubstr("a class without ]"));
  EXPECT_THAT(error("[\\W]"), HasSubstr("\\W in a class"));
  EXPECT_THAT(error("[\\b]"), HasSubstr("\\b in a class"));
  EXPECT_THAT(error("a{1,3}+"), HasSubstr("+ behind {...}"));
  EXPECT_THAT(error("(?m:a)"), HasSubstr("the group (?m"));
  EXPECT_THAT(error("(*FAIL)"), HasSubstr("the group (*F"));
  EXPECT_THAT(error("a\\Kb"), HasSubstr("\\K"));
  EXPECT_THAT(error("(a)\\1"), HasSubstr("\\1"));
  EXPECT_THAT(error("a\\"), HasSubstr("a single backslash"));
  EXPECT_THAT(error("\\pL"), HasSubstr("\\p without {Name}"));
  EXPECT_THAT(error("\\u12"), HasSubstr("\\u without four"));
  EXPECT_THAT(error("\xFF"), HasSubstr("not UTF-8"));
  EXPECT_THAT(error("(a"), HasSubstr("parenthesis"));
  EXPECT_THAT(error("\\p{Nonsense}"), HasSubstr("property"));
  EXPECT_THAT(error(std::string(70'000, 'a')), HasSubstr("65536 at most"));
}

TEST(SplitRegex, EndlessBacktrackingIsAnError) {
  const Result<SplitRegex> regex = SplitRegex::compile("(a+)+[bc]");
  MatchScratch scratch;
  std::vector<Span> spans;
  EXPECT_THAT(error_of(regex->find_all(std::string(40, 'a'), scratch, spans)),
              HasSubstr("match limit"));
}

TEST(SplitRegex, LongRunsAreNotBacktracking) {
  const std::string spaces(5'000'000, ' ');
  EXPECT_EQ(matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", spaces).size(), 1u);
  EXPECT_EQ(matches(R"((?:ab|c)+)", std::string(300'000, 'c')).size(), 1u);
}

}  // namespace
}  // namespace wideep::tokenizer
