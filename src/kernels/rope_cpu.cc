#include <cmath>

#include "base/check.h"
#include "kernels/cuda_ops.h"
#include "kernels/parallel.h"
#include "kernels/rope.h"

namespace wideep::kernels {
namespace {

// By the angles of a row of the table; x and y may be the same. `apart`: elements from the first to
// the second of a pair; kStep: between pairs.
template <int kStep>
void rotate(const float* angles, int64_t n, int64_t apart, const float* x, float* y) {
  const float* cosines = angles;
  const float* sines = angles + n;
  for (int64_t i = 0; i < n; ++i) {
    const float first = x[i * kStep];
    const float second = x[i * kStep + apart];
    y[i * kStep] = first * cosines[i] - second * sines[i];
    y[i * kStep + apart] = second * cosines[i] + first * sines[i];
  }
}

void rotate_heads(const RopeHeads& heads, const float* angles, int64_t n, bool interleaved,
                  int64_t token) {
  for (int head = 0; head < heads.num_heads; ++head) {
    const float* x = heads.x.row<float>(token) + head * heads.x_head_stride;
    float* y = heads.y.row<float>(token) + head * heads.y_head_stride;
    if (interleaved) {
      rotate<2>(angles, n, 1, x, y);
    } else {
      rotate<1>(angles, n, n, x, y);
    }
  }
}

}  // namespace

void check_rope(const RopeParams& params, DType dtype) {
  const ConstMatrixView& table = params.table;
  CHECK(table.dtype == DType::kF32 && table.columns % 2 == 0);
  for (const RopeHeads* heads : {&params.queries, &params.keys}) {
    if (heads->num_heads == 0) continue;
    CHECK(heads->x.dtype == dtype && heads->y.dtype == dtype);
    CHECK(heads->x.rows == table.rows && heads->y.rows == table.rows);
    const int last = heads->num_heads - 1;
    CHECK(heads->x.columns >= last * heads->x_head_stride + table.columns);
    CHECK(heads->y.columns >= last * heads->y_head_stride + table.columns);
  }
}

void rope_table(Stream& stream, const RopeTableParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::rope_table(stream, params);
  }
  const MatrixView& table = params.table;
  const auto n = static_cast<int64_t>(params.inv_freq.size());
  CHECK(table.dtype == DType::kF32 && table.columns == 2 * n && n <= kMaxRopePairs);
  CHECK(table.rows == static_cast<int64_t>(params.positions.size()));
  parallel_ranges(stream, table.rows, 50.0 * static_cast<double>(n),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t t = begin; t < end; ++t) {
                      auto* row = table.row<float>(t);
                      for (int64_t i = 0; i < n; ++i) {
                        const double angle = params.positions[t] * params.inv_freq[i];
                        row[i] = static_cast<float>(std::cos(angle) * params.factor);
                        row[n + i] = static_cast<float>(std::sin(angle) * params.factor);
                      }
                    }
                  });
}

void rope(Stream& stream, const RopeParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::rope(stream, params);
  }
  check_rope(params, DType::kF32);
  const ConstMatrixView& table = params.table;
  const int64_t n = table.columns / 2;
  const int num_heads = params.queries.num_heads + params.keys.num_heads;
  const double nanoseconds = static_cast<double>(num_heads) * static_cast<double>(n);
  parallel_ranges(stream, table.rows, nanoseconds, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const auto* angles = table.row<float>(t);
      rotate_heads(params.queries, angles, n, params.interleaved, t);
      rotate_heads(params.keys, angles, n, params.interleaved, t);
    }
  });
}

}  // namespace wideep::kernels
