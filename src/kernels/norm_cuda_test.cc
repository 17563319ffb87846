#include "kernels/cuda_testing.h"
#include "kernels/norm.h"

namespace wideep::kernels {
namespace {

class NormCudaTest : public CudaTest {};

TEST_F(NormCudaTest, MatchesTheCpu) {
  for (const auto& [rows, columns] : {std::pair{0, 4}, {1, 1}, {5, 15}, {9, 130}, {40, 7168}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const TestMatrix x = rounded(random_matrix(random_, rows, columns, 3, 4), dtype);
      const std::vector<float> weight = random_floats(random_, columns);
      TestMatrix expected(rows, columns, 2);
      rms_norm(cpu(), {x.view(), weight.data(), 1e-5F, expected.view()});
      const DeviceMatrix y(TestMatrix(rows, columns, 2), dtype);
      const DeviceMatrix input(x, dtype);
      const DeviceVector<float> device_weight(weight);
      rms_norm(stream(), {input.view(), device_weight.data(), 1e-5F, y.view()});
      expect_close(y.host(), expected, tolerance_of(dtype));
      expect_gaps_untouched(y.host());
    }
  }
}

TEST_F(NormCudaTest, AddsToTheResidual) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const TestMatrix x = rounded(random_matrix(random_, 70, 301, 1), dtype);
    TestMatrix residual = random_matrix(random_, 70, 301, 5);
    const DeviceMatrix device_x(x, dtype);
    const DeviceMatrix device_residual(residual, DType::kF32);
    const DeviceMatrix y(TestMatrix(70, 301, 2), dtype);
    add_rms_norm(stream(), {device_x.view(), device_residual.view(), nullptr, 1e-6F, y.view()});
    TestMatrix expected(70, 301, 2);
    add_rms_norm(cpu(), {x.view(), residual.view(), nullptr, 1e-6F, expected.view()});
    EXPECT_EQ(device_residual.host().bits(), residual.bits());
    expect_close(y.host(), expected, tolerance_of(dtype));
  }
}

}  // namespace
}  // namespace wideep::kernels
