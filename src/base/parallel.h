// parallel_for: independent pieces of work over a few threads, results in place, so that the answer
// does not depend on the number of threads.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace wideep {

// Calls body(i) once for every i in [0, count) on up to `threads` threads (0: all cores), in no
// particular order, and returns when all are done. body must not throw.
inline void parallel_for(int count, int threads, const std::function<void(int)>& body) {
  if (threads <= 0) threads = static_cast<int>(std::thread::hardware_concurrency());
  if (threads > count) threads = count;
  std::atomic<int> next{0};
  const auto work = [&] {
    for (int i = next++; i < count; i = next++) body(i);
  };
  std::vector<std::jthread> helpers;
  for (int t = 1; t < threads; ++t) helpers.emplace_back(work);
  work();
}

}  // namespace wideep
