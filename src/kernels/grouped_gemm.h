// Rows of several groups, each times the weight of its group: the experts of a rank. CUDA only, and
// the host never learns how many rows a group has; the CPU's twin is grouped_linear (linear.h).
//
// Two layouts of the rows:
//   contiguous  groups one behind the other, each from a multiple of kGroupAlignment on: prefill
//   masked      [groups, max_rows], of which the first counts[g] are in use: decode
//
// x and weights are both kF8E4M3 (y kBF16), both kBF16, or both kF32 (x and y may then be kBF16).
// What the tensor cores cannot take (kF32; rows of x or of weights that are not a multiple of 16
// bytes; max_rows not a multiple of 64) is multiplied in plain fp32, far slower: that is also the
// mode in which tests compare.
//
// A row's bits depend on its row of x and its group's weight alone, never on the other rows: K is
// not split, and every tile size sums in the same order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/linear.h"
#include "kernels/quantize.h"

namespace wideep::kernels {

inline constexpr int kGroupAlignment = 128;

// `groups` device weights of one shape side by side, device_weight_bytes apart.
struct GroupedWeight {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int groups = 0;
  int out_features = 0;
  int in_features = 0;

  int64_t stride_bytes() const { return device_weight_bytes(out_features, in_features, dtype); }
};

// Row r of group g is x row offsets[g] + r. Rows of y between the counts and the next offset are
// unspecified; rows from offsets[groups] on are not touched.
struct ContiguousGemmParams {
  ScaledRows x;                  // [rows, in]; rows: a bound that the host knows, multiple of 128
  const int* offsets = nullptr;  // [groups + 1] on the device, ascending multiples of 128 from 0
  GroupedWeight weight;
  MatrixView y;  // [rows, out]
  // [groups] on the device, rows in use of each group; null: all up to the next. Saves time where
  // groups are small: FP8 products leave out what nobody uses.
  const int* counts = nullptr;
};
void grouped_gemm_contiguous(Stream& stream, const ContiguousGemmParams& params);

// Row r of group g is x row g * max_rows + r. Rows of y beyond the counts are unspecified.
struct MaskedGemmParams {
  ScaledRows x;                 // [groups * max_rows, in]; scales in batches of max_rows
  const int* counts = nullptr;  // [groups] on the device, each at most max_rows
  int64_t max_rows = 0;
  // About how many rows a group in use has, where the host can guess: chooses the size of tiles,
  // never the result. 0: unknown.
  int64_t expected_rows = 0;
  GroupedWeight weight;
  MatrixView y;  // [groups * max_rows, out]
};
void grouped_gemm_masked(Stream& stream, const MaskedGemmParams& params);

}  // namespace wideep::kernels
