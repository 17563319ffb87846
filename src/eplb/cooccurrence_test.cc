#include "eplb/cooccurrence.h"

#include <gmock/gmock.h>

#include <numeric>

#include "base/random.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(CooccurrenceMatrix, CountsOrderedPairsWithoutTheDiagonal) {
  // Token 0: experts 0 and 2; token 1: 2 and 0; token 2: 1 and 2.
  const std::vector<int32_t> experts = {0, 2, 2, 0, 1, 2};
  EXPECT_THAT(cooccurrence_matrix(experts, 2, 3).value(), ElementsAre(0, 0, 2,  //
                                                                      0, 0, 1,  //
                                                                      2, 1, 0));
}

TEST(CooccurrenceMatrix, SkipsWhatWasNotRouted) {
  const std::vector<int32_t> experts = {0, -1, -1, -1, -1, 1};
  EXPECT_THAT(cooccurrence_matrix(experts, 3, 2).value(), ElementsAre(0, 0, 0, 0));
}

TEST(CooccurrenceMatrix, SumsRanksAndIterationsOfOneLayer) {
  const std::vector<RawIds> records = {
      {.rank = 0, .iteration = 5, .layer = 3, .top_k = 2, .experts = {0, 1}},
      {.rank = 1, .iteration = 5, .layer = 3, .top_k = 2, .experts = {1, 0}},
      {.rank = 0, .iteration = 5, .layer = 4, .top_k = 2, .experts = {0, 2}},
      {.rank = 0, .iteration = 6, .layer = 3, .top_k = 2, .experts = {}},
      {.rank = 1, .iteration = 6, .layer = 3, .top_k = 2, .experts = {0, 1, 2, 1}},
  };
  EXPECT_THAT(cooccurrence_matrix(records, 3, 3).value(), ElementsAre(0, 3, 0,  //
                                                                      3, 0, 1,  //
                                                                      0, 1, 0));
  EXPECT_THAT(cooccurrence_matrix(records, 9, 2).value(), ElementsAre(0, 0, 0, 0));
}

TEST(TotalCooccurrence, HasAMatrixForEachLayer) {
  const std::vector<RawIds> records = {
      {.rank = 0, .iteration = 5, .layer = 9, .top_k = 2, .experts = {0, 1}},
      {.rank = 0, .iteration = 5, .layer = 4, .top_k = 2, .experts = {1, 0, 0, 1}},
      {.rank = 1, .iteration = 5, .layer = 9, .top_k = 2, .experts = {}},
  };
  EXPECT_THAT(layers_of(records), ElementsAre(4, 9));
  const Cooccurrence total = total_cooccurrence(records, 2).value();
  EXPECT_EQ(total.num_experts, 2);
  EXPECT_THAT(total.layers, ElementsAre(4, 9));
  EXPECT_THAT(total.counts, ElementsAre(0, 2, 2, 0, 0, 1, 1, 0));
  EXPECT_FALSE(total_cooccurrence(records, 1).is_ok());
}

TEST(CooccurrenceMatrix, RefusesAnUnknownExpert) {
  const auto too_large = cooccurrence_matrix(std::vector<int32_t>{0, 4}, 2, 4);
  ASSERT_FALSE(too_large.is_ok());
  EXPECT_EQ(too_large.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(too_large.status().message(), HasSubstr("expert 4 is not one of 0 to 3"));
  EXPECT_FALSE(cooccurrence_matrix(std::vector<int32_t>{0, -2}, 2, 4).is_ok());
  const std::vector<RawIds> records = {{.layer = 1, .top_k = 1, .experts = {7}}};
  EXPECT_FALSE(cooccurrence_matrix(records, 1, 4).is_ok());
}

TEST(CooccurrenceMatrix, IsSymmetricAndAddsUpToOrderedPairs) {
  Random random(11);
  for (int round = 0; round < 30; ++round) {
    const int num_experts = 1 + static_cast<int>(random.below(40));
    const int top_k = 1 + static_cast<int>(random.below(num_experts));
    const int num_tokens = static_cast<int>(random.below(50));
    std::vector<int32_t> experts;
    std::vector<int32_t> ids(num_experts);
    std::iota(ids.begin(), ids.end(), 0);
    for (int token = 0; token < num_tokens; ++token) {
      for (int k = 0; k < top_k; ++k) {  // the head of a Fisher-Yates shuffle: distinct ids
        std::swap(ids[k], ids[k + random.below(num_experts - k)]);
        experts.push_back(ids[k]);
      }
    }
    const std::vector<int64_t> matrix = cooccurrence_matrix(experts, top_k, num_experts).value();
    int64_t sum = 0;
    for (int i = 0; i < num_experts; ++i) {
      EXPECT_EQ(matrix[i * num_experts + i], 0);
      for (int j = 0; j < num_experts; ++j) {
        EXPECT_EQ(matrix[i * num_experts + j], matrix[j * num_experts + i]);
        sum += matrix[i * num_experts + j];
      }
    }
    EXPECT_EQ(sum, int64_t{num_tokens} * top_k * (top_k - 1));
  }
}

TEST(CooccurrenceRow, SplitsPairsByRank) {
  // Experts 0 1 | 2 3. Pairs (0,1): 5, (0,2): 2, (2,3): 1, each in both orders.
  const std::vector<int64_t> matrix = {0, 5, 2, 0,  //
                                       5, 0, 0, 0,  //
                                       2, 0, 0, 1,  //
                                       0, 0, 1, 0};
  const std::vector<int> slots = {0, 1, 2, 3};
  const CooccurrenceRow row = cooccurrence_row(7, matrix, {4, 4, 2}, slots);
  EXPECT_EQ(row.layer, 7);
  EXPECT_DOUBLE_EQ(row.within_rank, 12);
  EXPECT_DOUBLE_EQ(row.between_rank, 4);
  EXPECT_DOUBLE_EQ(row.total, 16);
  EXPECT_DOUBLE_EQ(row.within_ratio, 0.75);
}

TEST(CooccurrenceRow, SharesPairsEvenlyOverReplicas) {
  // Ranks {0 1 2} and {0 3 3}; expert 0 and expert 3 have two slots each.
  std::vector<int64_t> matrix(16, 0);
  const auto set = [&](int i, int j, int64_t pairs) {
    matrix[i * 4 + j] = pairs;
    matrix[j * 4 + i] = pairs;
  };
  set(0, 1, 8);   // one of two replicas of 0 is with 1: half of 8 is within
  set(0, 3, 12);  // one of two replicas of 0 is with both of 3: half of 12
  set(1, 2, 3);   // always together
  set(2, 3, 5);   // never together
  const std::vector<int> slots = {0, 1, 2, 0, 3, 3};
  const CooccurrenceRow row = cooccurrence_row(0, matrix, {4, 6, 2}, slots);
  EXPECT_DOUBLE_EQ(row.within_rank, 2 * (4 + 6 + 3));
  EXPECT_DOUBLE_EQ(row.total, 2 * (8 + 12 + 3 + 5));
  EXPECT_DOUBLE_EQ(row.between_rank, row.total - row.within_rank);
}

TEST(CooccurrenceRow, AgreesWithTheExpandedMatrix) {
  // The slow reference expands the matrix to slots, as the definition says.
  Random random(5);
  for (int round = 0; round < 50; ++round) {
    const int num_experts = 1 + static_cast<int>(random.below(12));
    const int num_ranks = 1 + static_cast<int>(random.below(5));
    const int per_rank = (num_experts + num_ranks - 1) / num_ranks + random.below(3);
    const Shape shape{num_experts, num_ranks * per_rank, num_ranks};
    std::vector<int> slots(shape.num_slots);
    std::vector<double> replicas(num_experts, 0);
    for (int slot = 0; slot < shape.num_slots; ++slot) {
      slots[slot] = slot < num_experts ? slot : static_cast<int>(random.below(num_experts));
      replicas[slots[slot]] += 1;
    }
    std::vector<int64_t> matrix(num_experts * num_experts, 0);
    for (int i = 0; i < num_experts; ++i) {
      for (int j = 0; j < i; ++j) {
        matrix[i * num_experts + j] = matrix[j * num_experts + i] = random.below(100);
      }
    }
    double within = 0;
    double between = 0;
    for (int a = 0; a < shape.num_slots; ++a) {
      for (int b = 0; b < shape.num_slots; ++b) {
        const int i = slots[a];
        const int j = slots[b];
        const double pairs = matrix[i * num_experts + j] / (replicas[i] * replicas[j]);
        (shape.rank_of(a) == shape.rank_of(b) ? within : between) += pairs;
      }
    }
    const CooccurrenceRow row = cooccurrence_row(0, matrix, shape, slots);
    EXPECT_NEAR(row.within_rank, within, 1e-9 * (1 + within));
    EXPECT_NEAR(row.between_rank, between, 1e-9 * (1 + within + between));
    if (num_ranks == 1 && row.total > 0) {
      EXPECT_DOUBLE_EQ(row.within_ratio, 1);
    }
  }
}

TEST(CooccurrenceRow, DoesNotLookAtTheDiagonal) {
  // As in the files of recorders that count an expert with itself.
  const std::vector<int64_t> matrix = {9, 4, 4, 7};
  const CooccurrenceRow row = cooccurrence_row(0, matrix, {2, 4, 2}, std::vector<int>{0, 0, 1, 1});
  EXPECT_DOUBLE_EQ(row.within_rank, 0);
  EXPECT_DOUBLE_EQ(row.total, 8);
}

TEST(CooccurrenceRow, IsZeroWithoutPairs) {
  const std::vector<int64_t> matrix(4, 0);
  const CooccurrenceRow row = cooccurrence_row(0, matrix, {2, 2, 2}, std::vector<int>{0, 1});
  EXPECT_EQ(row.total, 0);
  EXPECT_EQ(row.within_ratio, 0);
}

TEST(CooccurrenceRow, AverageIsUnweighted) {
  const std::vector<CooccurrenceRow> rows = {{3, 1, 3, 4, 0.25}, {4, 300, 100, 400, 0.75}};
  const CooccurrenceRow average = average_row(rows);
  EXPECT_EQ(average.layer, -1);
  EXPECT_DOUBLE_EQ(average.within_rank, 150.5);
  EXPECT_DOUBLE_EQ(average.between_rank, 51.5);
  EXPECT_DOUBLE_EQ(average.total, 202);
  EXPECT_DOUBLE_EQ(average.within_ratio, 0.5);
  EXPECT_EQ(average_row({}).total, 0);
}

}  // namespace
}  // namespace wideep::eplb
