#include "eplb/batch_source.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/file_testing.h"

namespace wideep::eplb {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

int64_t sum(std::span<const int64_t> values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

Load make_load(std::vector<int64_t> tokens, int num_experts) {
  Load load{.num_experts = num_experts, .top_k = 2, .layers = {}, .tokens = std::move(tokens)};
  for (size_t l = 0; l * num_experts < load.tokens.size(); ++l) {
    load.layers.push_back(3 + static_cast<int>(l));
  }
  return load;
}

std::vector<int64_t> counts_of(const BatchSource& source, int64_t iteration, int layer,
                               bool per_rank) {
  std::vector<int64_t> counts;
  source.counts(iteration, layer, per_rank, counts);
  return counts;
}

TEST(BatchSourceTest, LoadBatchHasEveryTokenAndItsSharesOnAverage) {
  const auto source = BatchSource::from_load(make_load({10, 30, 0, 60, 5, 5, 5, 5}, 4),
                                             {.num_ranks = 4, .tokens_per_rank = 50, .seed = 7})
                          .value();
  EXPECT_EQ(source.top_k(), 2);
  std::vector<int64_t> totals(4);
  for (int i = 0; i < 200; ++i) {
    const auto counts = counts_of(source, i, 0, false);
    EXPECT_EQ(sum(counts), 4 * 50 * 2);
    for (int e = 0; e < 4; ++e) totals[e] += counts[e];
  }
  // 80,000 draws: four standard deviations are below 600.
  EXPECT_NEAR(static_cast<double>(totals[0]), 8000, 600);
  EXPECT_NEAR(static_cast<double>(totals[1]), 24000, 600);
  EXPECT_EQ(totals[2], 0);
  EXPECT_NEAR(static_cast<double>(totals[3]), 48000, 600);
}

TEST(BatchSourceTest, RanksAddUpToTheSameBatch) {
  const auto source = BatchSource::from_load(make_load({10, 30, 0, 60, 5, 5, 5, 5}, 4),
                                             {.num_ranks = 5, .tokens_per_rank = 40})
                          .value();
  for (int layer = 0; layer < 2; ++layer) {
    for (int i = 0; i < 20; ++i) {
      const auto totals = counts_of(source, i, layer, false);
      const auto counts = counts_of(source, i, layer, true);
      ASSERT_EQ(counts.size(), 20u);
      std::vector<int64_t> added(4);
      for (size_t j = 0; j < counts.size(); ++j) added[j % 4] += counts[j];
      EXPECT_EQ(added, totals);
      EXPECT_EQ(counts_of(source, i, layer, true), counts);  // drawn again: the same
    }
  }
  EXPECT_NE(counts_of(source, 0, 0, false), counts_of(source, 1, 0, false));
}

TEST(BatchSourceTest, TokensComeFromAllRanksAlike) {
  // A few and very many tokens an expert: drawn one by one and by halving.
  const auto source = BatchSource::from_load(make_load({1, 1000}, 2),
                                             {.num_ranks = 7, .tokens_per_rank = 10000, .top_k = 1})
                          .value();
  std::vector<double> tokens(7), hot(7);
  for (int i = 0; i < 100; ++i) {
    const auto counts = counts_of(source, i, 0, true);
    for (int r = 0; r < 7; ++r) {
      tokens[r] += static_cast<double>(counts[2 * r]);
      hot[r] += static_cast<double>(counts[2 * r + 1]);
    }
  }
  for (int r = 0; r < 7; ++r) {
    EXPECT_NEAR(tokens[r], 1000, 160);  // five standard deviations
    EXPECT_NEAR(hot[r], 999000, 5 * 930);
  }
}

TEST(BatchSourceTest, StatisticsAreReplayedAsRecorded) {
  Statistics statistics{.num_experts = 3,
                        .top_k = 1,
                        .num_ranks = 2,
                        .iter_start = 100,
                        .iter_stop = 102,
                        .layers = {4},
                        .tokens = {1, 2, 3, 7, 0, 9}};
  const auto recorded = BatchSource::from_statistics(statistics, {.num_ranks = 6}).value();
  EXPECT_THAT(counts_of(recorded, 0, 0, false), ElementsAre(1, 2, 3));
  EXPECT_THAT(counts_of(recorded, 1, 0, false), ElementsAre(7, 0, 9));
  EXPECT_THAT(counts_of(recorded, 2, 0, false), ElementsAre(1, 2, 3));
  EXPECT_EQ(sum(counts_of(recorded, 1, 0, true)), 16);
  EXPECT_THAT(recorded.layers(), ElementsAre(4));
  EXPECT_THAT(recorded.total_load().tokens, ElementsAre(8, 2, 12));
  const auto drawn =
      BatchSource::from_statistics(statistics, {.num_ranks = 6, .tokens_per_rank = 10}).value();
  const auto counts = counts_of(drawn, 1, 0, false);
  EXPECT_EQ(sum(counts), 60);
  EXPECT_EQ(counts[1], 0);
}

TEST(BatchSourceTest, TokensOfALoadHaveDifferentExperts) {
  const auto source = BatchSource::from_load(make_load({1000000, 1, 1, 0, 5, 5, 5, 5}, 4),
                                             {.num_ranks = 1, .tokens_per_rank = 1, .top_k = 4})
                          .value();
  std::vector<int> experts;
  source.token_experts(0, 0, 50, experts);
  ASSERT_EQ(experts.size(), 200u);
  for (size_t t = 0; t < experts.size(); t += 4) {
    // Three experts have load; the fourth place stays empty.
    const std::set<int> chosen(experts.begin() + t, experts.begin() + t + 3);
    EXPECT_THAT(chosen, ElementsAre(0, 1, 2));
    EXPECT_EQ(experts[t + 3], -1);
  }
}

TEST(BatchSourceTest, ErrorsSayWhichFlag) {
  const Load load = make_load({1, 2, 3, 4}, 4);
  const auto message = [&](const BatchOptions& options) {
    const auto result = BatchSource::from_load(load, options);
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidInput);
    return result.status().message();
  };
  EXPECT_THAT(message({.num_ranks = 2}), HasSubstr("--tokens_per_rank: needed"));
  EXPECT_THAT(message({.num_ranks = 0, .tokens_per_rank = 1}), HasSubstr("--ep_size 0"));
  EXPECT_THAT(message({.num_ranks = 2, .tokens_per_rank = -1}), HasSubstr("--tokens_per_rank -1"));
  EXPECT_THAT(message({.num_ranks = 2, .tokens_per_rank = 1, .top_k = 5}), HasSubstr("--top_k 5"));
  EXPECT_THAT(message({.num_ranks = 2, .tokens_per_rank = 1, .num_experts = 8}),
              HasSubstr("4 experts but the plan 8"));
  EXPECT_THAT(parse_batching("decode").status().message(), HasSubstr("mixed, sequence"));
}

// Traces written for the test: 2 layers, top-1, 8-bit ids.
class TraceBatchTest : public ::testing::Test {
 protected:
  // Layer 0 has the ids as they are, layer 1 has 9 - id.
  std::string write(const std::string& name, const std::vector<int>& ids,
                    const std::string& lengths) {
    std::string header = fmt::format(
        "{{'descr': '|u1', 'fortran_order': False, 'shape': ({}, 2, 1), }}", ids.size());
    while ((10 + header.size() + 1) % 64 != 0) header += ' ';
    header += '\n';
    std::string npy = std::string("\x93NUMPY\x01\x00", 8);
    npy += static_cast<char>(header.size() & 255);
    npy += static_cast<char>(header.size() >> 8);
    npy += header;
    for (const int id : ids) {
      npy += static_cast<char>(id);
      npy += static_cast<char>(9 - id);
    }
    folder_.write(name + ".lens.json", lengths);
    return folder_.write(name + ".npy", npy);
  }

  TemporaryFolder folder_;
};

TEST_F(TraceBatchTest, SequenceTakesConsecutiveTokensOfOneText) {
  // Two texts of five tokens; windows of three stay inside a text.
  const auto path = write("a", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "[5, 5]");
  const auto source =
      BatchSource::open({path},
                        {.num_ranks = 3, .tokens_per_rank = 3, .batching = Batching::kSequence})
          .value();
  std::set<int> begins;
  for (int i = 0; i < 300; ++i) {
    const auto counts = counts_of(source, i, 0, true);
    const auto other = counts_of(source, i, 1, true);
    for (int r = 0; r < 3; ++r) {
      const auto row = std::span(counts).subspan(r * 10, 10);
      const int begin = static_cast<int>(std::find(row.begin(), row.end(), 1) - row.begin());
      begins.insert(begin);
      EXPECT_EQ(sum(row), 3);
      EXPECT_THAT(row.subspan(begin, 3), Each(1));
      // The same tokens in the other layer.
      EXPECT_THAT(std::span(other).subspan(r * 10 + 7 - begin, 3), Each(1));
    }
  }
  EXPECT_THAT(begins, ElementsAre(0, 1, 2, 5, 6, 7));
}

TEST_F(TraceBatchTest, ShortTextsAreTakenWholeUntilTheRankIsFull) {
  const auto path = write("a", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "[2, 8]");
  const auto source =
      BatchSource::open({path},
                        {.num_ranks = 1, .tokens_per_rank = 100, .batching = Batching::kSequence})
          .value();
  const auto counts = counts_of(source, 5, 0, false);
  EXPECT_EQ(sum(counts), 100);
  // Whole texts, and one piece that fills the rank up.
  EXPECT_LE(std::abs(counts[0] - counts[1]), 1);
  EXPECT_LE(*std::max_element(counts.begin() + 2, counts.end()) -
                *std::min_element(counts.begin() + 2, counts.end()),
            1);
}

TEST_F(TraceBatchTest, MixedDrawsTracesInEqualParts) {
  // One trace is nine times as long as the other.
  const auto shorter = write("a", {7}, "[1]");
  const auto longer = write("b", {1, 2, 1, 2, 1, 2, 1, 2, 9}, "[9]");
  const auto source =
      BatchSource::open({shorter, longer}, {.num_ranks = 10, .tokens_per_rank = 1000}).value();
  EXPECT_EQ(source.num_experts(), 10);
  const auto counts = counts_of(source, 0, 0, false);
  EXPECT_EQ(sum(counts), 10000);
  EXPECT_NEAR(static_cast<double>(counts[7]), 5000, 250);
  EXPECT_NEAR(static_cast<double>(counts[1]), 5000 * 4 / 9.0, 250);
  EXPECT_EQ(counts[3], 0);
  // The shorter trace is scaled to the length of the longer one.
  const Load load = source.total_load();
  EXPECT_EQ(load.row(0)[7], 9);
  EXPECT_EQ(load.row(0)[1], 4);
}

TEST_F(TraceBatchTest, TokensAreThoseOfTheBatch) {
  const auto path = write("a", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "[5, 5]");
  const auto source = BatchSource::open({path}, {.num_ranks = 4, .tokens_per_rank = 6}).value();
  for (int layer = 0; layer < 2; ++layer) {
    std::vector<int> experts;
    source.token_experts(3, layer, 1000, experts);
    std::vector<int64_t> counted(10);
    for (const int e : experts) ++counted[e];
    EXPECT_EQ(counted, counts_of(source, 3, layer, false));
    source.token_experts(3, layer, 2, experts);
    EXPECT_EQ(experts.size(), 2u);
  }
}

TEST_F(TraceBatchTest, ErrorsNameTheMismatch) {
  const auto path = write("a", {0, 1, 2, 3}, "[4]");
  const auto message = [&](const std::vector<std::string>& paths, const BatchOptions& options) {
    return BatchSource::open(paths, options).status().message();
  };
  EXPECT_THAT(message({path}, {.num_ranks = 1, .tokens_per_rank = 1, .top_k = 3}),
              HasSubstr("--top_k 3: the trace has 1 experts a token"));
  EXPECT_THAT(message({path}, {.num_ranks = 1}), HasSubstr("--tokens_per_rank: needed"));
  EXPECT_THAT(message({}, {.num_ranks = 1}), HasSubstr("--load"));
  const auto csv = folder_ / "load.csv";
  EXPECT_THAT(message({path, csv}, {.num_ranks = 1}), HasSubstr("load.csv"));
}

}  // namespace
}  // namespace wideep::eplb
