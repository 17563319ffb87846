// References of FP8 rows and weights on the host, for the tests of products.
#pragma once

#include <span>
#include <vector>

#include "kernels/cuda_testing.h"
#include "kernels/grouped_gemm.h"

namespace wideep::kernels {

// The code of the E4M3 value nearest to this, ties to even; values beyond 448 become 448.
uint8_t nearest_e4m3(float value);

// A matrix in FP8 with a scale for each block of block_rows x 128.
struct Fp8Matrix {
  Fp8Matrix(const TestMatrix& matrix, int64_t block_rows);

  float scale(int64_t row, int64_t column) const;
  float value(int64_t row, int64_t column) const;
  // What the codes and scales stand for.
  TestMatrix widened() const;

  int64_t rows;
  int64_t columns;
  int64_t rows_of_block;
  std::vector<uint8_t> codes;
  std::vector<float> scales;  // [ceil(rows / block_rows), ceil(columns / 128)]
};

// The weights of groups on the device, filled with random floats by store_device_weight_rows.
class DeviceWeights {
 public:
  DeviceWeights(Stream& stream, Random& random, const GroupedWeight& shape);

  GroupedWeight view() const;
  PackedWeight one(int group) const;
  // [out, in] of a group, as the device should have rounded it.
  const TestMatrix& plain(int group) const { return plain_[static_cast<size_t>(group)]; }

 private:
  GroupedWeight shape_;
  std::vector<TestMatrix> plain_;
  Buffer memory_;
};

// Memory of the device for quantised rows, poisoned; and what came to lie there.
class DeviceQuantized {
 public:
  DeviceQuantized(int64_t rows, int64_t columns, int64_t batch_rows = 0);

  const QuantizedRows& view() const { return rows_; }
  struct Host {
    std::vector<uint8_t> codes;  // [rows, columns]
    TestMatrix scales;           // [rows, ceil(columns / 128)]
  };
  Host host() const;

 private:
  Buffer memory_;
  QuantizedRows rows_;
};

// Codes that no op writes and floats that are NaN.
inline constexpr uint8_t kPoisonByte = 0xff;

// x W^T in double.
TestMatrix product_of(const TestMatrix& x, const TestMatrix& weight);

// A matrix as products see it that multiply this type.
TestMatrix as_multiplied(const TestMatrix& matrix, DType dtype, int64_t block_rows);

// Copies rows [begin, begin + rows.rows) of `to`.
void copy_rows(const TestMatrix& rows, int64_t begin, TestMatrix& to);
TestMatrix rows_of(const TestMatrix& matrix, int64_t begin, int64_t count);

}  // namespace wideep::kernels
