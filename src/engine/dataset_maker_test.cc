#include "engine/dataset_maker.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "base/file.h"

namespace wideep::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

DatasetPlan plan_of(int num_requests, LengthDistribution input, LengthDistribution output) {
  DatasetPlan plan;
  plan.num_requests = num_requests;
  plan.input = input;
  plan.output = output;
  plan.vocab_size = 50;
  plan.seed = 7;
  return plan;
}

tokenizer::Tokenizer load_tokenizer() {
  return tokenizer::Tokenizer::load(WIDEEP_SOURCE_DIR "/models/dsv3-tiny").value();
}

TEST(RandomDataset, HasTheLengthsItWasAskedFor) {
  const auto entries = random_dataset(plan_of(2000, {100, 20}, {30, 0}));
  ASSERT_EQ(entries.size(), 2000U);
  double sum = 0;
  double squares = 0;
  for (const DatasetEntry& entry : entries) {
    const auto length = static_cast<double>(entry.input_ids.size());
    sum += length;
    squares += length * length;
    EXPECT_EQ(entry.output_tokens, 30);
    for (const int id : entry.input_ids) ASSERT_TRUE(id >= 0 && id < 50);
  }
  const double mean = sum / 2000;
  EXPECT_NEAR(mean, 100, 2);  // four standard errors
  EXPECT_NEAR(std::sqrt(squares / 2000 - mean * mean), 20, 1.5);
}

TEST(RandomDataset, GivesNobodyAnEmptyPrompt) {
  for (const DatasetEntry& entry : random_dataset(plan_of(500, {1, 50}, {1, 50}))) {
    EXPECT_GE(entry.input_ids.size(), 1U);
    EXPECT_GE(entry.output_tokens, 1);
  }
}

TEST(RandomDataset, DependsOnTheRequestAlone) {
  const auto few = random_dataset(plan_of(3, {10, 3}, {5, 2}));
  const auto many = random_dataset(plan_of(30, {10, 3}, {5, 2}));
  for (size_t i = 0; i < few.size(); ++i) {
    EXPECT_EQ(few[i].input_ids, many[i].input_ids);
    EXPECT_EQ(few[i].output_tokens, many[i].output_tokens);
  }
}

TEST(TextDataset, TakesTextsInTurnAndCutsThem) {
  const tokenizer::Tokenizer tokenizer = load_tokenizer();
  const std::vector<std::string> texts = {"The quick brown fox jumps over the lazy dog.", "Hi"};
  const std::array lists = {TextList{"f", texts}};
  const auto whole = text_dataset(plan_of(3, {}, {4, 0}), lists, tokenizer);
  ASSERT_TRUE(whole.is_ok()) << whole.status().message();
  EXPECT_EQ(whole->at(0).input_ids, tokenizer.encode(texts[0], {}).value());
  EXPECT_EQ(whole->at(1).input_ids, tokenizer.encode(texts[1], {}).value());
  EXPECT_EQ(whole->at(2).input_ids, whole->at(0).input_ids);

  const auto cut = text_dataset(plan_of(1, {3, 0}, {4, 0}), lists, tokenizer);
  ASSERT_TRUE(cut.is_ok());
  const std::vector<int>& ids = whole->at(0).input_ids;
  EXPECT_EQ(cut->at(0).input_ids, std::vector<int>(ids.begin(), ids.begin() + 3));
}

TEST(TextDataset, NamesTheBadText) {
  const std::array lists = {TextList{"a.json", {"fine"}}, TextList{"b.json", {"fine", "\xff"}}};
  const auto entries = text_dataset(plan_of(4, {}, {4, 0}), lists, load_tokenizer());
  ASSERT_FALSE(entries.is_ok());
  EXPECT_THAT(entries.status().message(), HasSubstr("b.json: text 1: "));
}

// Which list (0 or 1) each request is from.
std::vector<int> lists_of(const DatasetPlan& plan, const tokenizer::Tokenizer& tokenizer) {
  const std::array lists = {TextList{"a", {"one", "two"}}, TextList{"b", {"three"}}};
  const auto entries = text_dataset(plan, lists, tokenizer);
  EXPECT_TRUE(entries.is_ok()) << entries.status().message();
  const std::vector<int> of_second = tokenizer.encode("three").value();
  std::vector<int> found;
  for (const DatasetEntry& entry : *entries) found.push_back(entry.input_ids == of_second ? 1 : 0);
  return found;
}

TEST(TextDataset, GivesListsEqualSharesOneAfterTheOtherOrInTurn) {
  const tokenizer::Tokenizer tokenizer = load_tokenizer();
  DatasetPlan plan = plan_of(5, {}, {4, 0});
  EXPECT_THAT(lists_of(plan, tokenizer), ElementsAre(0, 0, 0, 1, 1));
  plan.mix = true;
  EXPECT_THAT(lists_of(plan, tokenizer), ElementsAre(0, 1, 0, 1, 0));
}

TEST(TextDataset, BeginsAnywhereWhereAsked) {
  const tokenizer::Tokenizer tokenizer = load_tokenizer();
  const std::array lists = {TextList{"f", {"a b c d e f g h i j k l m n o p q r s t u v w x"}}};
  const std::vector<int> all = tokenizer.encode(lists[0].texts[0]).value();
  DatasetPlan plan = plan_of(200, {6, 0}, {1, 0});
  plan.random_start = true;
  const auto entries = text_dataset(plan, lists, tokenizer);
  ASSERT_TRUE(entries.is_ok()) << entries.status().message();
  std::set<std::ptrdiff_t> starts;
  for (const DatasetEntry& entry : *entries) {
    ASSERT_EQ(entry.input_ids.size(), 6U);
    EXPECT_EQ(entry.input_ids[0], all[0]);  // the token that begins every text
    const auto found =
        std::search(all.begin() + 1, all.end(), entry.input_ids.begin() + 1, entry.input_ids.end());
    ASSERT_NE(found, all.end());
    starts.insert(found - all.begin());
  }
  // Every place from which five more tokens follow.
  EXPECT_EQ(static_cast<int>(starts.size()), std::ssize(all) - 5);

  plan.input = {1000, 0};
  EXPECT_EQ(text_dataset(plan, lists, tokenizer)->at(7).input_ids, all);
}

// What data/domains/README.md says of the texts that ship.
TEST(TextDataset, ShippedDomainsHaveTextsOfManyTokens) {
  const tokenizer::Tokenizer tokenizer = load_tokenizer();
  for (const char* domain :
       {"chinese", "english", "french", "german", "japanese", "python", "russian", "spanish"}) {
    const std::string path = fmt::format("{}/data/domains/{}.json", WIDEEP_SOURCE_DIR, domain);
    const auto file = read_file(path);
    ASSERT_TRUE(file.is_ok()) << file.status().message();
    const auto texts = parse_texts(*file, path);
    ASSERT_TRUE(texts.is_ok()) << texts.status().message();
    EXPECT_EQ(texts->size(), 20U);
    EXPECT_EQ(std::set(texts->begin(), texts->end()).size(), texts->size());
    for (const std::string& text : *texts) {
      EXPECT_GE(tokenizer.encode(text)->size(), 350U) << domain << ": " << text;
    }
  }
}

TEST(ParseTexts, ReadsListsObjectsAndLines) {
  EXPECT_THAT(parse_texts(R"( ["a", "b"])", "f").value(), ElementsAre("a", "b"));
  EXPECT_THAT(parse_texts(R"({"x": ["a"], "y": ["b", "c"]})", "f").value(),
              ElementsAre("a", "b", "c"));
  EXPECT_THAT(parse_texts("one line\n\nanother", "f").value(), ElementsAre("one line", "another"));
}

TEST(ParseTexts, NamesWhatIsWrong) {
  EXPECT_THAT(parse_texts("", "f.txt").status().message(), HasSubstr("f.txt: holds no text"));
  EXPECT_THAT(parse_texts("[1]", "f.json").status().message(),
              HasSubstr("f.json: must be a list of strings"));
  EXPECT_THAT(parse_texts(R"({"x": "a"})", "f.json").status().message(),
              HasSubstr("f.json: x: must be a list of strings"));
}

TEST(DatasetText, IsReadBack) {
  DatasetEntry text;
  text.task_id = 3;
  text.prompt = "a \"quoted\"\nline";
  text.output_tokens = 9;
  DatasetEntry ids;
  ids.task_id = 4;
  ids.input_ids = {5, 17};
  ids.output_tokens = 1;
  const std::vector<DatasetEntry> entries = {text, ids};
  const auto read = parse_dataset(dataset_text(entries), "d");
  ASSERT_TRUE(read.is_ok()) << read.status().message();
  ASSERT_EQ(read->size(), 2U);
  EXPECT_EQ(read->at(0).prompt, text.prompt);
  EXPECT_EQ(read->at(0).task_id, 3);
  EXPECT_EQ(read->at(1).input_ids, ids.input_ids);
  EXPECT_EQ(read->at(1).output_tokens, 1);
}

}  // namespace
}  // namespace wideep::engine
