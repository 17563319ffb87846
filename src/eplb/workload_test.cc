#include "eplb/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/file.h"
#include "base/file_testing.h"

namespace wideep::eplb {
namespace {

using ::testing::HasSubstr;

// Two experts, two layers; iteration i has i and 10 - i tokens in both.
void write_iterations(const std::string& folder, int num_iterations) {
  std::vector<RankCounts> counts;
  for (int i = 0; i < num_iterations; ++i) {
    for (const int layer : {3, 4}) counts.push_back({i, layer, {i, 10 - i}});
  }
  ASSERT_TRUE(write_statistics(folder, 2, 1, {counts}).is_ok());
}

TEST(ReadWorkload, IterationsAreTheBatchesOfAStatisticsFolder) {
  const TemporaryFolder folder;
  write_iterations(folder.path(), 4);
  const auto workload = read_workload({folder.path()}, {});
  ASSERT_TRUE(workload.is_ok()) << workload.status().message();
  EXPECT_EQ(workload->load.tokens, (std::vector<int64_t>{6, 34, 6, 34}));
  ASSERT_EQ(workload->batches.size(), 4);
  EXPECT_EQ(workload->batches[3].tokens, (std::vector<int64_t>{3, 7, 3, 7}));
  EXPECT_FALSE(workload->cooccurrence);
}

TEST(ReadWorkload, TakesBatchesAtEqualDistances) {
  const TemporaryFolder folder;
  write_iterations(folder.path(), 8);
  const auto workload = read_workload({folder.path()}, {.max_batches = 2});
  ASSERT_EQ(workload->batches.size(), 2);
  EXPECT_EQ(workload->batches[0].tokens[0], 0);
  EXPECT_EQ(workload->batches[1].tokens[0], 4);
  EXPECT_EQ(workload->load.tokens[0], 28);
}

TEST(ReadWorkload, BatchesOfATraceHaveTheTokensThatTheRanksWouldHave) {
  const std::string path = WIDEEP_SOURCE_DIR "/../shared/data/expert_load/dsv3_tiny/german.npy";
  if (!path_exists(path)) GTEST_SKIP() << path << " is not there";
  WorkloadOptions options;
  options.num_ranks = 9;
  options.max_batches = 3;
  options.with_cooccurrence = true;
  const auto workload = read_workload({path}, options);
  ASSERT_TRUE(workload.is_ok()) << workload.status().message();
  ASSERT_EQ(workload->batches.size(), 3);
  for (const Load& batch : workload->batches) {
    const auto row = batch.row(0);
    EXPECT_EQ(std::accumulate(row.begin(), row.end(), int64_t{0}), 9 * 128 * 6);
  }
  EXPECT_TRUE(workload->cooccurrence);
}

TEST(ReadWorkload, OnlyTracesCanBeJoined) {
  const TemporaryFolder folder;
  EXPECT_THAT(read_workload({folder.path(), folder.path()}, {}).status().message(),
              HasSubstr("only npy traces can be joined"));
  EXPECT_FALSE(read_workload({}, {}).is_ok());
}

}  // namespace
}  // namespace wideep::eplb
