#include <cstring>

#include "base/check.h"
#include "base/float_formats.h"
#include "kernels/cuda_ops.h"
#include "kernels/elementwise.h"
#include "kernels/parallel.h"
#include "kernels/vector_math.h"

namespace wideep::kernels {
namespace {

// Rows are moved at some 10 GB/s.
double row_nanoseconds(const MatrixView& y) {
  return 0.4 * static_cast<double>(y.columns);
}

void check_same_shape(const ConstMatrixView& x, const MatrixView& y) {
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32);
  CHECK(x.rows == y.rows && x.columns == y.columns);
}

}  // namespace

void embedding(Stream& stream, ConstMatrixView table, std::span<const int> ids, MatrixView y) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::embedding(stream, table, ids, y);
  }
  CHECK(table.dtype == DType::kF32 || table.dtype == DType::kBF16);
  CHECK(y.dtype == DType::kF32 && y.columns == table.columns);
  CHECK(y.rows == static_cast<int64_t>(ids.size()));
  parallel_ranges(stream, y.rows, row_nanoseconds(y), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      auto* to = y.row<float>(t);
      CHECK_LT(ids[t], table.rows);
      if (ids[t] < 0) {
        std::fill(to, to + y.columns, 0.0F);
      } else if (table.dtype == DType::kF32) {
        std::copy_n(table.row<float>(ids[t]), y.columns, to);
      } else {
        const auto* from = table.row<uint16_t>(ids[t]);
        for (int64_t i = 0; i < y.columns; ++i) to[i] = bf16_to_float(from[i]);
      }
    }
  });
}

void silu_mul(Stream& stream, ConstMatrixView x, MatrixView y, const int* num_rows) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::silu_mul(stream, x, y, num_rows);
  }
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32);
  CHECK(x.rows == y.rows && x.columns == 2 * y.columns);
  const int64_t rows = num_rows != nullptr ? std::min<int64_t>(*num_rows, y.rows) : y.rows;
  parallel_ranges(stream, rows, row_nanoseconds(y), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto* gate = x.row<float>(r);
      silu_mul_row(gate, gate + y.columns, y.columns, y.row<float>(r));
    }
  });
}

void add(Stream& stream, ConstMatrixView x, MatrixView y) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::add(stream, x, y);
  }
  check_same_shape(x, y);
  parallel_ranges(stream, y.rows, row_nanoseconds(y), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto* from = x.row<float>(r);
      auto* to = y.row<float>(r);
      for (int64_t i = 0; i < y.columns; ++i) to[i] += from[i];
    }
  });
}

void add_bias(Stream& stream, const float* bias, MatrixView y) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::add_bias(stream, bias, y);
  }
  CHECK(y.dtype == DType::kF32);
  parallel_ranges(stream, y.rows, row_nanoseconds(y), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      auto* to = y.row<float>(r);
      for (int64_t i = 0; i < y.columns; ++i) to[i] += bias[i];
    }
  });
}

void scale_rows(Stream& stream, std::span<const float> factors, MatrixView x) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::scale_rows(stream, factors, x);
  }
  CHECK(x.dtype == DType::kF32 && x.rows == static_cast<int64_t>(factors.size()));
  parallel_ranges(stream, x.rows, row_nanoseconds(x), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      auto* row = x.row<float>(r);
      for (int64_t i = 0; i < x.columns; ++i) row[i] *= factors[r];
    }
  });
}

}  // namespace wideep::kernels
