// Rotary position embedding.
#pragma once

#include <span>

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

inline constexpr int kMaxRopePairs = 256;

// cos and sin of position * inv_freq[i], times `factor`: table [tokens, 2 * n] holds the n cosines,
// then the n sines. Angles are computed in double: positions reach beyond 10^5. Once a batch,
// shared by all layers.
struct RopeTableParams {
  std::span<const int> positions;    // [tokens]
  std::span<const double> inv_freq;  // [n], n <= kMaxRopePairs; of the host
  double factor = 1;                 // YaRN's attention factor
  MatrixView table;
};
void rope_table(Stream& stream, const RopeTableParams& params);

// Heads of each token: head h at columns [h * x_head_stride, h * x_head_stride + 2n) of x [tokens,
// >= ...], and rotated in y, which may be x.
struct RopeHeads {
  ConstMatrixView x;
  int64_t x_head_stride = 0;
  MatrixView y;
  int64_t y_head_stride = 0;
  int num_heads = 0;
};
inline RopeHeads in_place(const MatrixView& x, int64_t head_stride, int num_heads) {
  return {x, head_stride, x, head_stride, num_heads};
}

// Rotates the 2n columns of each head. Interleaved: pairs (2i, 2i + 1); else (i, i + n).
struct RopeParams {
  RopeHeads queries;
  RopeHeads keys;         // num_heads 0: there are none
  ConstMatrixView table;  // [tokens, 2n]
  bool interleaved = false;
};
void rope(Stream& stream, const RopeParams& params);

// CHECKs what rope() expects of its params.
void check_rope(const RopeParams& params, DType dtype);

}  // namespace wideep::kernels
