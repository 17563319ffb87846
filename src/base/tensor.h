// Views of rows x columns in memory that someone else owns. Ops take views, never containers, so
// that the same call works on a slice of a buffer, on one head's columns, and on device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/check.h"
#include "base/dtype.h"

namespace wideep {

// Row r begins at data + r * stride elements; columns of a row are adjacent. stride >= columns, or
// any where rows <= 1. Byte is std::byte, or const std::byte for a view that is only read.
template <typename Byte>
struct BasicMatrixView {
  Byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // elements

  // T must be the type that holds dtype; bf16 and f16 are uint16_t.
  template <typename T>
  auto row(int64_t r) const {
    using Element = std::conditional_t<std::is_const_v<Byte>, const T, T>;
    return reinterpret_cast<Element*>(data) + r * stride;
  }

  BasicMatrixView row_range(int64_t begin, int64_t count) const {
    CHECK(begin >= 0 && count >= 0 && begin + count <= rows);
    return {data + begin * stride * dtype_size(dtype), dtype, count, columns, stride};
  }
  BasicMatrixView column_range(int64_t begin, int64_t count) const {
    CHECK(begin >= 0 && count >= 0 && begin + count <= columns);
    return {data + begin * dtype_size(dtype), dtype, rows, count, stride};
  }
  // The same memory with rows cut into `parts` rows each: [tokens, heads * dim] as
  // [tokens * heads, dim]. Rows must be adjacent.
  BasicMatrixView split_rows(int64_t parts) const {
    CHECK(stride == columns && columns % parts == 0);
    return {data, dtype, rows * parts, columns / parts, columns / parts};
  }

  operator BasicMatrixView<const std::byte>() const {  // NOLINT: reading is always allowed
    return {data, dtype, rows, columns, stride};
  }
};

using MatrixView = BasicMatrixView<std::byte>;
using ConstMatrixView = BasicMatrixView<const std::byte>;

inline MatrixView matrix_view(float* data, int64_t rows, int64_t columns) {
  return {reinterpret_cast<std::byte*>(data), DType::kF32, rows, columns, columns};
}
inline ConstMatrixView matrix_view(const float* data, int64_t rows, int64_t columns) {
  return {reinterpret_cast<const std::byte*>(data), DType::kF32, rows, columns, columns};
}

}  // namespace wideep
