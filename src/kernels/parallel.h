// Work split into ranges that are worth a thread's while.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/stream.h"

namespace wideep::kernels {

// Calls body(begin, end) for ranges that cover [0, count). `cost` estimates one element's time in
// nanoseconds; ranges of less than 20 us would spend more on waking threads than they save.
template <typename Body>
void parallel_ranges(Stream& stream, int64_t count, double cost, const Body& body) {
  constexpr double kRangeNanoseconds = 20e3;
  constexpr int kRangesPerThread = 4;  // evens out ranges of unequal cost
  const auto worth = static_cast<int64_t>(static_cast<double>(count) * cost / kRangeNanoseconds);
  const int64_t most = std::min<int64_t>(count, kRangesPerThread * stream.pool().size());
  const int64_t ranges = std::clamp<int64_t>(worth, 1, std::max<int64_t>(most, 1));
  if (ranges == 1 || stream.pool().size() == 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  stream.pool().parallel_for(static_cast<int>(ranges),
                             [&](int i) { body(count * i / ranges, count * (i + 1) / ranges); });
}

}  // namespace wideep::kernels
