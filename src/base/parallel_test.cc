#include "base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <vector>

namespace wideep {
namespace {

TEST(ParallelForTest, CallsEveryIndexOnce) {
  for (const int count : {0, 1, 2, 7, 1000}) {
    for (const int threads : {0, 1, 2, 3, 16}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
      parallel_for(count, threads, [&](int i) { ++calls[static_cast<size_t>(i)]; });
      for (const auto& n : calls) {
        EXPECT_EQ(n.load(), 1) << count << " pieces, " << threads << " threads";
      }
    }
  }
}

TEST(ParallelForTest, ResultsDoNotDependOnThreads) {
  const auto squares = [](int threads) {
    std::vector<int> out(500);
    parallel_for(500, threads, [&](int i) { out[static_cast<size_t>(i)] = i * i; });
    return out;
  };
  EXPECT_EQ(squares(1), squares(8));
}

TEST(ParallelForTest, WaitsForEveryPiece) {
  std::atomic<int64_t> sum{0};
  parallel_for(200, 4, [&](int i) {
    std::this_thread::yield();
    sum += i;
  });
  EXPECT_EQ(sum.load(), 199 * 200 / 2);
}

}  // namespace
}  // namespace wideep
