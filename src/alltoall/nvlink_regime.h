// Constants and formulas of the regimes that host and kernels share.
#pragma once

#include "alltoall/nvlink_types.h"

namespace wideep::alltoall {

// Threads of a block of a small batch: one part of a row at a time, a vector a thread. Two blocks
// share a multiprocessor.
inline constexpr int kSmallThreads = 512;
// Words of shared memory that such a block of dispatch has beside two for each pair of the batch
// and its counts.
inline constexpr int kSmallSharedWords = kMaxNvlinkRanks + 32;
// Dynamic shared memory that a kernel may ask for; the rest is the kernels' static one.
inline constexpr int kSharedMemoryOfKernel = 226 * 1024;
// Tokens of a rank up to which lines, which need no fences, are quicker.
inline constexpr int kSmallTokens = 256;

// Wider rows, and their results, go as a large batch, of whatever number.
inline constexpr int64_t kMostSmallRowBytes = 24 * 1024;

// Tokens of a rank up to which a batch of this shape can go as lines.
int64_t largest_small_batch(const Shape& shape);

// Parts of a small batch's row: as few as blocks can take with a vector a thread, as even as may
// be.
WIDEEP_HOST_DEVICE constexpr RowParts make_row_parts(int64_t row_bytes) {
  constexpr int kMostLines = kSmallThreads / kVectorsOfLine;
  const int lines = lines_of_row(row_bytes);
  const int count = (lines + kMostLines - 1) / kMostLines;
  return {count, (lines + count - 1) / count * kVectorsOfLine};
}

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
