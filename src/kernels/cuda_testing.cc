#include "kernels/cuda_testing.h"

#include <algorithm>

#include "base/float_formats.h"

namespace wideep::kernels {

void CudaTest::SetUp() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "needs a GPU";
  handle_ = CudaStream::create().value();
  context_ = OpContext::create().value();
  stream_ = std::make_unique<Stream>(
      Stream::of_cuda(cpu_.pool, static_cast<void*>(handle_.get()), context_.get()));
}

void CudaTest::finish() {
  if (stream_ == nullptr) return;
  const Status status = handle_.synchronize();
  EXPECT_TRUE(status.is_ok()) << status.message();
  EXPECT_TRUE(stream_->status().is_ok()) << stream_->status().message();
}

DeviceMatrix::DeviceMatrix(const TestMatrix& matrix, DType dtype)
    : dtype_(dtype), rows_(matrix.rows), columns_(matrix.columns), stride_(matrix.stride) {
  const auto count = static_cast<int64_t>(matrix.values.size());
  memory_ = device_buffer(count * dtype_size(dtype)).value();
  std::vector<uint16_t> narrow;
  const void* from = matrix.values.data();
  if (dtype == DType::kBF16) {
    narrow.resize(matrix.values.size());
    float_to_bf16(matrix.values, narrow);
    from = narrow.data();
  }
  copy_now(memory_.data(), from, memory_.size());
}

MatrixView DeviceMatrix::view() const {
  return {memory_.data(), dtype_, rows_, columns_, stride_};
}

TestMatrix DeviceMatrix::host() const {
  TestMatrix result(rows_, columns_, stride_ - columns_);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  std::vector<uint16_t> narrow(result.values.size());
  const bool is_narrow = dtype_ == DType::kBF16;
  void* to = is_narrow ? static_cast<void*>(narrow.data()) : result.values.data();
  copy_now(to, memory_.data(), memory_.size());
  if (is_narrow) bf16_to_float(reinterpret_cast<const std::byte*>(narrow.data()), result.values);
  return result;
}

TestMatrix rounded(const TestMatrix& matrix, DType dtype) {
  TestMatrix result = matrix;
  if (dtype == DType::kBF16) {
    for (float& value : result.values) value = bf16_to_float(float_to_bf16(value));
  }
  return result;
}

void expect_close(const TestMatrix& a, const TestMatrix& b, double tolerance) {
  ASSERT_EQ(a.rows, b.rows);
  ASSERT_EQ(a.columns, b.columns);
  double largest = 0;
  for (int64_t r = 0; r < b.rows; ++r) {
    for (int64_t c = 0; c < b.columns; ++c) {
      if (std::isfinite(b.at(r, c))) largest = std::max<double>(largest, std::abs(b.at(r, c)));
    }
  }
  for (int64_t r = 0; r < b.rows; ++r) {
    for (int64_t c = 0; c < b.columns; ++c) {
      ASSERT_EQ(std::isnan(a.at(r, c)), std::isnan(b.at(r, c))) << "row " << r << ", column " << c;
      if (std::isnan(b.at(r, c))) continue;
      ASSERT_NEAR(a.at(r, c), b.at(r, c), tolerance * largest) << "row " << r << ", column " << c;
    }
  }
}

}  // namespace wideep::kernels
