// Helpers of the CUDA ops' tests: a stream on a GPU, and matrices there that begin poisoned.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <vector>

#include "base/cuda.h"
#include "kernels/kernels_testing.h"
#include "kernels/op_context.h"

namespace wideep::kernels {

// A test on the first GPU; skipped where there is none.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override;
  // Waits for what the test started and expects that nothing failed.
  void TearDown() override { finish(); }
  void finish();

  Stream& stream() { return *stream_; }
  // The CPU's stream of the same test, for the twin.
  Stream& cpu() { return cpu_.stream; }

  Random random_{7};

 private:
  TestStream cpu_{2};
  CudaStream handle_;
  std::unique_ptr<OpContext> context_;
  std::unique_ptr<Stream> stream_;
};

// Copies between the host and the device. Waits until it is there: cudaMemcpy alone returns once
// ordinary memory of the host is staged, and the test's stream does not wait for its stream.
inline void copy_now(void* to, const void* from, size_t bytes) {
  EXPECT_EQ(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

// A copy on the device of values of the host. Waits, so that tests read in order.
template <typename T>
class DeviceVector {
 public:
  explicit DeviceVector(std::span<const T> values) : size_(values.size()) {
    memory_ = device_buffer(static_cast<int64_t>(values.size_bytes())).value();
    copy_now(memory_.data(), values.data(), values.size_bytes());
  }
  explicit DeviceVector(const std::vector<T>& values) : DeviceVector(std::span<const T>(values)) {}

  T* data() const { return memory_.as<T>(); }
  std::span<T> span() const { return {data(), size_}; }
  // After everything that any stream does.
  std::vector<T> host() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    copy_now(values.data(), data(), size_ * sizeof(T));
    return values;
  }

 private:
  size_t size_;
  Buffer memory_;
};

// A matrix on the device as kF32 or kBF16, with the gaps of the TestMatrix that it copies; NaNs
// stay NaNs.
class DeviceMatrix {
 public:
  DeviceMatrix(const TestMatrix& matrix, DType dtype);

  MatrixView view() const;
  // Widened to float, gaps included.
  TestMatrix host() const;

 private:
  DType dtype_;
  int64_t rows_;
  int64_t columns_;
  int64_t stride_;
  Buffer memory_;
};

// The matrix as a kBF16 copy would have it.
TestMatrix rounded(const TestMatrix& matrix, DType dtype);

// |a - b| <= tolerance * max |b| for every element, and NaN only where both are.
void expect_close(const TestMatrix& a, const TestMatrix& b, double tolerance);

// What rounding a result to this type may add, relative to the largest element.
inline double tolerance_of(DType dtype) {
  return dtype == DType::kBF16 ? 8e-3 : 1e-5;
}

}  // namespace wideep::kernels
