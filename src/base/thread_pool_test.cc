#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

#include "base/stream.h"

namespace wideep {
namespace {

// True where body was called exactly once for every index.
bool calls_each_once(ThreadPool& pool, int count) {
  std::vector<std::atomic<int>> calls(count);
  pool.parallel_for(count, [&](int i) { ++calls[i]; });
  for (const auto& n : calls) {
    if (n.load() != 1) return false;
  }
  return true;
}

TEST(ThreadPoolTest, CallsEveryIndexOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int count : {0, 1, 2, 7, 16, 1000}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        ASSERT_TRUE(calls_each_once(pool, count)) << threads << " threads, " << count << " pieces";
      }
    }
  }
}

TEST(ThreadPoolTest, OneThreadRunsInOrderOnItsCaller) {
  ThreadPool pool(1);
  std::vector<int> order;
  const auto caller = std::this_thread::get_id();
  pool.parallel_for(5, [&](int i) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    order.push_back(i);
  });
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
}

// Each piece waits for all the others: this ends only where as many threads work at once.
TEST(ThreadPoolTest, PiecesRunAtOnce) {
  for (const int threads : {2, 4}) {
    ThreadPool pool(threads);
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::latch all(threads);
      pool.parallel_for(threads, [&](int) { all.arrive_and_wait(); });
    }
  }
}

TEST(ThreadPoolTest, SeveralCallersShareIt) {
  constexpr int kCallers = 8;
  ThreadPool pool(3);
  std::vector<int> wrong(kCallers, 0);
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c) {
    callers.emplace_back([&, c] {
      for (int repeat = 0; repeat < 200; ++repeat) {
        if (!calls_each_once(pool, 1 + (repeat * 7 + c) % 50)) ++wrong[c];
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, std::vector<int>(kCallers, 0));
}

// Three threads: one caller and its helper are held inside their loop, the second caller is the
// third, so the other helper must leave that caller's pieces alone.
TEST(ThreadPoolTest, HelpersStayAwayWhileTheThreadsAreTaken) {
  ThreadPool pool(3);
  std::latch held(2);
  std::latch release(1);
  std::thread holder([&] {
    pool.parallel_for(2, [&](int) {
      held.count_down();
      release.wait();
    });
  });
  held.wait();
  const auto self = std::this_thread::get_id();
  int strangers = 0;
  for (int repeat = 0; repeat < 200; ++repeat) {
    pool.parallel_for(64, [&](int) {
      if (std::this_thread::get_id() != self) ++strangers;
      std::this_thread::yield();
    });
  }
  release.count_down();
  holder.join();
  EXPECT_EQ(strangers, 0);
}

TEST(ThreadPoolTest, LoopsNest) {
  ThreadPool pool(3);
  std::atomic<int> sum{0};
  pool.parallel_for(6, [&](int i) { pool.parallel_for(5, [&](int j) { sum += 10 * i + j; }); });
  EXPECT_EQ(sum.load(), 5 * 10 * 15 + 6 * 10);
}

TEST(StreamTest, HoldsItsPool) {
  ThreadPool pool(2);
  const Stream stream(pool);
  EXPECT_EQ(&stream.pool(), &pool);
  EXPECT_TRUE(calls_each_once(stream.pool(), 9));
}

}  // namespace
}  // namespace wideep
