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

// Rotates in place the 2n columns of each head of each token: x [tokens, >= ...], head h at columns
// [h * head_stride, h * head_stride + 2n). Interleaved: pairs (2i, 2i + 1); else (i, i + n).
struct RopeParams {
  MatrixView x;
  int num_heads = 0;
  int64_t head_stride = 0;
  ConstMatrixView table;
  bool interleaved = false;
};
void rope(Stream& stream, const RopeParams& params);

}  // namespace wideep::kernels
