// Constants and formulas of the regimes that host and kernels share.
#pragma once

#include "alltoall/nvlink_types.h"

namespace wideep::alltoall {

// Tokens of a unit of the scan at most.
inline constexpr int kMaxUnitTokens = 128;

// Threads of a block of the small regime: one row at a time, three vectors a thread.
inline constexpr int kSmallThreads = 512;
// The same of combine, where wider rows take turns: two blocks share a multiprocessor.
inline constexpr int kSmallCombineThreads = 320;
// Words of shared memory that such a block has beside the batch's pairs and counts.
inline constexpr int kSmallSharedWords = 2 + kMaxNvlinkRanks + 3 * kMaxTopK + kSmallThreads;
// Dynamic shared memory that a kernel may ask for; the rest is the kernels' static one.
inline constexpr int kSharedMemoryOfKernel = 226 * 1024;
// Tokens of a rank up to which packets, which need no fences but a third more bytes, are quicker.
inline constexpr int kSmallTokens = 192;

// Tokens of a rank up to which a batch of this shape can go as packets.
int64_t largest_small_batch(const Shape& shape);

// Words of a unit's histogram, whole vectors.
WIDEEP_HOST_DEVICE constexpr int histogram_stride(int columns) {
  return (columns + 3) / 4 * 4;
}

// Units that each of `blocks` blocks scans: the fewest that keep a unit within its size.
WIDEEP_HOST_DEVICE constexpr int units_of_block(int tokens, int blocks) {
  const int per_block = (tokens + blocks - 1) / blocks;
  const int units = (per_block + kMaxUnitTokens - 1) / kMaxUnitTokens;
  return units > 1 ? units : 1;
}

}  // namespace wideep::alltoall
