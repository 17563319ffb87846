// Products on Hopper's tensor cores by DeepGEMM's kernels, which are compiled ahead of time from
// the headers of the sgl-deep-gemm wheel; the host's side, and which group a thread block works on,
// is ours. Only deep_gemm_*.cu include the headers. In builds without them can_multiply() is false.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/quantize.h"

namespace wideep::kernels {

struct DeepGemmProduct {
  enum class Layout { kDense, kContiguous, kMasked };  // of grouped_gemm.h; kDense: one group

  Layout layout = Layout::kDense;
  DType dtype = DType::kF8E4M3;       // or kBF16, not for kDense
  ScaledRows x;                       // [rows, in]
  const std::byte* weight = nullptr;  // `groups` device weights side by side
  int groups = 1;
  int out = 0;
  int in = 0;
  MatrixView y;                        // [rows, out] kBF16
  const int* groups_layout = nullptr;  // offsets or counts
  const int* counts = nullptr;         // kContiguous; null: rows are in use up to the next offset
  int64_t max_rows = 0;                // kMasked
  int64_t expected_rows = 0;           // kMasked; 0: unknown
};

// Whether the copy engine can take the shapes, pointers and strides, and the product is compiled.
bool deep_gemm_can_multiply(const DeepGemmProduct& product);
// A failure becomes the stream's.
void deep_gemm_multiply(Stream& stream, const DeepGemmProduct& product);

}  // namespace wideep::kernels
