// Constants and formulas of the regimes that host and kernels share.
#pragma once

#include "alltoall/nvlink_types.h"

namespace wideep::alltoall {

// Threads of a block of the small regime: one row at a time, three vectors a thread.
inline constexpr int kSmallThreads = 512;
// The same of combine, where wider rows take turns: two blocks share a multiprocessor.
inline constexpr int kSmallCombineThreads = 320;
// Words of shared memory that such a block has beside the batch's pairs and counts.
inline constexpr int kSmallSharedWords = 2 + 2 * kMaxNvlinkRanks + 2 * kMaxTopK + kSmallThreads;
// Dynamic shared memory that a kernel may ask for; the rest is the kernels' static one.
inline constexpr int kSharedMemoryOfKernel = 226 * 1024;
// Tokens of a rank up to which packets, which need no fences but a third more bytes, are quicker.
inline constexpr int kSmallTokens = 192;

// Tokens of a rank up to which a batch of this shape can go as packets.
int64_t largest_small_batch(const Shape& shape);

// Words of a block's histogram of slots, whole vectors.
WIDEEP_HOST_DEVICE constexpr int histogram_stride(int num_slots) {
  return (num_slots + 3) / 4 * 4;
}

// Of `warps` warps, those that scan a large batch's slots: each has counters of its own.
WIDEEP_HOST_DEVICE constexpr int scan_warps(int num_slots, int warps) {
  constexpr int kWords = 16 * 1024;
  const int most = kWords / num_slots;
  return most < 1 ? 1 : most < warps ? most : warps;
}

}  // namespace wideep::alltoall
