#include "tokenizer/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/file_testing.h"
#include "base/random.h"

namespace wideep::tokenizer {
namespace {

using ::testing::ElementsAre;

Result<std::vector<int>> encode(const BpeSpec& spec, std::string_view word) {
  ASSIGN_OR_RETURN(const Bpe bpe, Bpe::create(spec, "f"));
  Bpe::Scratch scratch;
  std::vector<int> ids;
  RETURN_IF_ERROR(bpe.encode(word, scratch, ids));
  return ids;
}

// Merges, one after the other, the leftmost pair of the lowest rank: the definition, O(n^2).
std::vector<int> slow_encode(const BpeSpec& spec, std::string_view word) {
  const std::map<std::string, int> ids(spec.vocab.begin(), spec.vocab.end());
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    size_t best_rank = spec.merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (spec.merges[rank] != std::pair(parts[i], parts[i + 1])) continue;
        best_rank = rank;
        best = i;
      }
    }
    if (best_rank == spec.merges.size()) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  std::vector<int> result;
  for (const std::string& part : parts) result.push_back(ids.at(part));
  return result;
}

// A vocabulary over a, b, c with random merges of what there is already.
BpeSpec random_spec(Random& random) {
  BpeSpec spec;
  std::map<std::string, int> ids;
  const auto add = [&](const std::string& token) {
    if (ids.emplace(token, static_cast<int>(ids.size())).second) {
      spec.vocab.emplace_back(token, ids.at(token));
    }
  };
  for (const char* letter : {"a", "b", "c"}) add(letter);
  for (int i = 0; i < 12; ++i) {
    const std::string left = spec.vocab[random.below(spec.vocab.size())].first;
    const std::string right = spec.vocab[random.below(spec.vocab.size())].first;
    const std::pair merge(left, right);
    if (std::ranges::find(spec.merges, merge) != spec.merges.end()) continue;
    spec.merges.push_back(merge);
    add(left + right);
  }
  return spec;
}

TEST(Bpe, MergesAsTheDefinitionSays) {
  Random random(1);
  for (int round = 0; round < 300; ++round) {
    const BpeSpec spec = random_spec(random);
    std::string word;
    const uint64_t length = random.below(40);
    for (uint64_t i = 0; i < length; ++i) word += static_cast<char>('a' + random.below(3));
    EXPECT_EQ(encode(spec, word).value(), slow_encode(spec, word)) << word;
  }
}

TEST(Bpe, LongWordsAreNotSlow) {
  const BpeSpec spec{.vocab = {{"a", 0}, {"aa", 1}, {"aaaa", 2}},
                     .merges = {{"a", "a"}, {"aa", "aa"}}};
  const std::vector<int> ids = encode(spec, std::string(1'000'001, 'a')).value();
  EXPECT_EQ(ids.size(), 250'001u);
  EXPECT_EQ(ids.back(), 0);
}

TEST(Bpe, WholeWordsWithoutMergesWhereTheModelSaysSo) {
  BpeSpec spec{.vocab = {{"a", 0}, {"b", 1}, {"ab", 2}, {"ba", 3}, {"aba", 4}, {"Ġ", 5}, {"Ġa", 6}},
               .merges = {{"b", "a"}}};
  EXPECT_THAT(encode(spec, "aba").value(), ElementsAre(0, 3));
  EXPECT_THAT(encode(spec, " a").value(), ElementsAre(5, 0));
  spec.ignore_merges = true;
  EXPECT_THAT(encode(spec, "aba").value(), ElementsAre(4));
  EXPECT_THAT(encode(spec, " a").value(), ElementsAre(6));
  EXPECT_THAT(encode(spec, "abab").value(), ElementsAre(0, 3, 1));
}

TEST(Bpe, UnknownBytes) {
  BpeSpec spec{.vocab = {{"a", 0}, {"?", 1}, {"?a", 2}}, .merges = {}};
  EXPECT_THAT(error_of(encode(spec, "axa")), ::testing::HasSubstr("byte 0x78 is not in the vocab"));
  spec.unk_token = "?";
  EXPECT_THAT(encode(spec, "xya").value(), ElementsAre(1, 1, 0));
  spec.fuse_unk = true;
  EXPECT_THAT(encode(spec, "xyazz").value(), ElementsAre(1, 0, 1));
  EXPECT_THAT(encode(spec, "").value(), ElementsAre());
}

TEST(Bpe, MergesOfUnknownTokensAreErrors) {
  const BpeSpec no_result{.vocab = {{"a", 0}, {"b", 1}}, .merges = {{"a", "b"}}};
  EXPECT_EQ(error_of(Bpe::create(no_result, "f.json")),
            "f.json: model.merges[0]: \"a b\": \"ab\" is not in model.vocab");
  const BpeSpec no_left{.vocab = {{"b", 1}}, .merges = {{"a", "b"}}};
  EXPECT_EQ(error_of(Bpe::create(no_left, "f.json")),
            "f.json: model.merges[0]: \"a b\": \"a\" is not in model.vocab");
  const BpeSpec no_unk{.vocab = {{"b", 1}}, .merges = {}, .unk_token = "?"};
  EXPECT_EQ(error_of(Bpe::create(no_unk, "f.json")),
            "f.json: model.unk_token: \"?\" is not in model.vocab");
}

}  // namespace
}  // namespace wideep::tokenizer
