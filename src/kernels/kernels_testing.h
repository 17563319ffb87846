// Helpers of the ops' tests: matrices whose rows have gaps between them, poisoned so that what an
// op does not write, or should not read, shows.
#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// NaN everywhere, also in the `gap` elements after each row.
struct TestMatrix {
  TestMatrix(int64_t num_rows, int64_t num_columns, int64_t gap = 0)
      : rows(num_rows),
        columns(num_columns),
        stride(num_columns + gap),
        values(num_rows * stride, std::numeric_limits<float>::quiet_NaN()) {}

  float* row(int64_t r) { return values.data() + r * stride; }
  const float* row(int64_t r) const { return values.data() + r * stride; }
  float at(int64_t r, int64_t c) const { return row(r)[c]; }

  MatrixView view() {
    return {reinterpret_cast<std::byte*>(values.data()), DType::kF32, rows, columns, stride};
  }
  ConstMatrixView view() const {
    return {reinterpret_cast<const std::byte*>(values.data()), DType::kF32, rows, columns, stride};
  }

  // Of the rows without their gaps; NaNs compare equal.
  std::vector<uint32_t> bits() const {
    std::vector<uint32_t> result;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) result.push_back(std::bit_cast<uint32_t>(at(r, c)));
    }
    return result;
  }

  int64_t rows;
  int64_t columns;
  int64_t stride;
  std::vector<float> values;
};

inline float random_float(Random& random, float range = 1) {
  return static_cast<float>((2 * random.uniform() - 1) * range);
}

inline void fill(Random& random, float range, TestMatrix& matrix) {
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = 0; c < matrix.columns; ++c) matrix.row(r)[c] = random_float(random, range);
  }
}

inline TestMatrix random_matrix(Random& random, int64_t rows, int64_t columns, int64_t gap = 0,
                                float range = 1) {
  TestMatrix result(rows, columns, gap);
  fill(random, range, result);
  return result;
}

inline std::vector<float> random_floats(Random& random, int64_t count, float range = 1) {
  std::vector<float> result(count);
  for (float& value : result) value = random_float(random, range);
  return result;
}

inline int between(Random& random, int low, int high) {
  return low + static_cast<int>(random.below(high - low + 1));
}

inline void expect_gaps_untouched(const TestMatrix& matrix) {
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = matrix.columns; c < matrix.stride; ++c) {
      ASSERT_TRUE(std::isnan(matrix.row(r)[c])) << "row " << r << ", gap " << c - matrix.columns;
    }
  }
}

// A stream on a pool of its own.
struct TestStream {
  explicit TestStream(int threads) : pool(threads), stream(pool) {}
  operator Stream&() { return stream; }  // NOLINT: stands for it in every call

  ThreadPool pool;
  Stream stream;
};

// Calls body() once for each instruction set of this machine that ops are compiled for, which ops
// then use instead of the best one.
template <typename Body>
void for_each_instruction_set(const Body& body) {
  const int64_t supported = hwy::SupportedTargets();
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::GetChosenTarget().Update(target);
    body();
  }
  hwy::GetChosenTarget().Update(supported);
}

// Calls body() with AVX-512 and AVX2, where this machine has both, and expects the same result:
// sums have one order, whatever the width of the registers.
template <typename Body>
void expect_same_on_wide_instruction_sets(const Body& body) {
  const int64_t supported = hwy::SupportedTargets();
  if ((supported & HWY_AVX3) == 0) GTEST_SKIP() << "needs AVX-512";
  hwy::GetChosenTarget().Update(HWY_AVX3);
  const auto wide = body();
  hwy::GetChosenTarget().Update(HWY_AVX2);
  EXPECT_EQ(body(), wide);
  hwy::GetChosenTarget().Update(supported);
}

}  // namespace wideep::kernels
