// What a collective does to memory, where the buffers of all ranks can be reached: the local
// world's data movement, cut into pieces that any of the ranks' threads may do.
#pragma once

#include <cstdint>
#include <span>

#include "dist/call.h"

namespace wideep::dist {

// How much there is to do for calls that passed check_sizes.
struct Work {
  int64_t units = 0;  // bytes, elements or ranks, depending on the op
  int64_t bytes = 0;  // read and written, about
};

Work work_of(std::span<const Call> calls);

// Does units [begin, end). Different units touch different results, so disjoint ranges may run at
// once.
void do_work(std::span<const Call> calls, int64_t begin, int64_t end);

}  // namespace wideep::dist
