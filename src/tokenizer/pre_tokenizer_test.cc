#include "tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"

namespace wideep::tokenizer {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> words(const PreTokenizerSpec& spec, std::string_view text) {
  const Result<PreTokenizer> pre_tokenizer = PreTokenizer::create(spec, "f");
  EXPECT_TRUE(pre_tokenizer.is_ok()) << pre_tokenizer.status().message();
  PreTokenizer::Scratch scratch;
  std::vector<std::string> result;
  const Status status = pre_tokenizer->split(text, scratch, [&](std::string_view word) {
    result.emplace_back(word);
    return Status::ok();
  });
  EXPECT_TRUE(status.is_ok()) << status.message();
  return result;
}

SplitSpec dash(SplitBehavior behavior, bool invert = false) {
  return {.pattern = "-", .is_regex = false, .behavior = behavior, .invert = invert, .path = "p"};
}

TEST(PreTokenizer, Behaviours) {
  const std::string text = "the-final--countdown";
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kIsolated)}}, text),
              ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kRemoved)}}, text),
              ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kMergedWithPrevious)}}, text),
              ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kMergedWithNext)}}, text),
              ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kContiguous)}}, text),
              ElementsAre("the", "-", "final", "--", "countdown"));
}

TEST(PreTokenizer, InvertedBehaviours) {
  const std::string text = "-a--b";
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kRemoved, true)}}, text),
              ElementsAre("-", "-", "-"));
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kMergedWithPrevious, true)}}, text),
              ElementsAre("-a", "-", "-b"));
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kMergedWithNext, true)}}, text),
              ElementsAre("-", "a-", "-", "b"));
}

TEST(PreTokenizer, StepsFollowEachOther) {
  const SplitSpec digits{.pattern = R"(\p{N}{1,3})", .path = "p"};
  EXPECT_THAT(words({.splits = {digits, dash(SplitBehavior::kIsolated)}}, "a-12345-"),
              ElementsAre("a", "-", "123", "45", "-"));
  EXPECT_THAT(words({}, "a b"), ElementsAre("a b"));
  EXPECT_THAT(words({.splits = {digits}, .use_regex = true}, ""), ElementsAre());
}

TEST(PreTokenizer, LookaroundSeesOnlyItsPiece) {
  const SplitSpec ends{.pattern = R"(\s+(?!\S))", .path = "p"};
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kIsolated), ends}}, "a  -"),
              ElementsAre("a", "  ", "-"));
}

TEST(PreTokenizer, ByteLevelCutsAsGpt2) {
  EXPECT_THAT(words({.use_regex = true}, "I'll see  you, 42!\n"),
              ElementsAre("I", "'ll", " see", " ", " you", ",", " 42", "!", "\n"));
  EXPECT_THAT(words({.add_prefix_space = true, .use_regex = true}, "a b"), ElementsAre(" a", " b"));
  EXPECT_THAT(words({.splits = {dash(SplitBehavior::kIsolated)}, .add_prefix_space = true}, "a- b"),
              ElementsAre(" a", " -", " b"));
}

TEST(PreTokenizer, ErrorsNameThePlace) {
  const PreTokenizerSpec bad{.splits = {{.pattern = "(", .path = "pre_tokenizer.pattern"}}};
  EXPECT_THAT(error_of(PreTokenizer::create(bad, "f.json")),
              ::testing::StartsWith("f.json: pre_tokenizer.pattern: missing closing parenthesis"));
  const PreTokenizerSpec slow{.splits = {{.pattern = "(a+)+[bc]", .path = "p"}}};
  const Result<PreTokenizer> pre_tokenizer = PreTokenizer::create(slow, "f.json");
  PreTokenizer::Scratch scratch;
  const Status status = pre_tokenizer->split(std::string(40, 'a'), scratch,
                                             [](std::string_view) { return Status::ok(); });
  EXPECT_THAT(status.message(), ::testing::StartsWith("f.json: p: the search from byte 0 failed"));
}

}  // namespace
}  // namespace wideep::tokenizer
