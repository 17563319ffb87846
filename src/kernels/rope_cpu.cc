#include <cmath>

#include "base/check.h"
#include "kernels/cuda_ops.h"
#include "kernels/parallel.h"
#include "kernels/rope.h"

namespace wideep::kernels {
namespace {

// In place, by n angles. `apart`: elements from the first to the second of a pair; `step`: between
// pairs.
template <int kStep>
void rotate(const float* cosines, const float* sines, int64_t n, int64_t apart, float* x) {
  for (int64_t i = 0; i < n; ++i) {
    const float first = x[i * kStep];
    const float second = x[i * kStep + apart];
    x[i * kStep] = first * cosines[i] - second * sines[i];
    x[i * kStep + apart] = second * cosines[i] + first * sines[i];
  }
}

}  // namespace

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
  const MatrixView& x = params.x;
  const ConstMatrixView& table = params.table;
  CHECK(x.dtype == DType::kF32 && table.dtype == DType::kF32);
  CHECK(table.rows == x.rows && table.columns % 2 == 0);
  const int64_t n = table.columns / 2;
  if (params.num_heads == 0) return;
  CHECK(x.columns >= (params.num_heads - 1) * params.head_stride + 2 * n);
  const double nanoseconds = static_cast<double>(params.num_heads) * static_cast<double>(n);
  parallel_ranges(stream, x.rows, nanoseconds, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const auto* cosines = table.row<float>(t);
      for (int head = 0; head < params.num_heads; ++head) {
        auto* columns = x.row<float>(t) + head * params.head_stride;
        if (params.interleaved) {
          rotate<2>(cosines, cosines + n, n, 1, columns);
        } else {
          rotate<1>(cosines, cosines + n, n, n, columns);
        }
      }
    }
  });
}

}  // namespace wideep::kernels
