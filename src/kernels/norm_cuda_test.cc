#include "kernels/norm.h"

#include "kernels/cuda_testing.h"
#include "kernels/elementwise.h"

namespace wideep::kernels {
namespace {

class NormCudaTest : public CudaTest {};

TEST_F(NormCudaTest, MatchesTheCpu) {
  // Odd rows, then rows in vectors: of one to four a thread, then too many.
  for (const auto& [rows, columns, gap] : {std::tuple{0, 8, 0},
                                           {1, 1, 0},
                                           {5, 15, 3},
                                           {9, 130, 3},
                                           {40, 7168, 3},
                                           {3, 8, 8},
                                           {70, 1000, 8},
                                           {40, 7168, 0},
                                           {5, 16384, 0},
                                           {3, 16392, 8}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const TestMatrix x = rounded(random_matrix(random_, rows, columns, gap, 4), dtype);
      const std::vector<float> weight = random_floats(random_, columns);
      TestMatrix expected(rows, columns, gap);
      rms_norm(cpu(), {x.view(), weight.data(), 1e-5F, expected.view()});
      const DeviceMatrix y(TestMatrix(rows, columns, gap), dtype);
      const DeviceMatrix input(x, dtype);
      const DeviceVector<float> device_weight(weight);
      rms_norm(stream(), {input.view(), device_weight.data(), 1e-5F, y.view()});
      expect_close(y.host(), expected, tolerance_of(dtype));
      expect_gaps_untouched(y.host());
    }
  }
}

TEST_F(NormCudaTest, InPlace) {
  const TestMatrix before = random_matrix(random_, 30, 512, 8);
  TestMatrix expected = before;
  rms_norm(cpu(), {expected.view(), nullptr, 1e-6F, expected.view()});
  const DeviceMatrix x(before, DType::kF32);
  rms_norm(stream(), {x.view(), nullptr, 1e-6F, x.view()});
  expect_close(x.host(), expected, 1e-5);
}

TEST_F(NormCudaTest, PairIsTwoNorms) {
  // In vectors, of different numbers of them; and a row that has none.
  for (const auto& [first, second] : {std::pair{1536, 512}, {64, 7168}, {130, 512}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const std::vector<float> weight = random_floats(random_, std::max(first, second));
      const DeviceVector<float> device_weight(weight);
      std::vector<DeviceMatrix> xs;
      std::vector<DeviceMatrix> alone;
      std::vector<DeviceMatrix> paired;
      for (const int columns : {first, second}) {
        xs.emplace_back(rounded(random_matrix(random_, 7, columns, 8), dtype), dtype);
        alone.emplace_back(TestMatrix(7, columns, 8), dtype);
        paired.emplace_back(TestMatrix(7, columns, 8), dtype);
      }
      const auto norm = [&](int i, const DeviceMatrix& y) {
        return RmsNormParams{xs[i].view(), device_weight.data(), 1e-6F, y.view()};
      };
      for (const int i : {0, 1}) rms_norm(stream(), norm(i, alone[i]));
      rms_norm_pair(stream(), norm(0, paired[0]), norm(1, paired[1]));
      for (const int i : {0, 1}) EXPECT_EQ(paired[i].host().bits(), alone[i].host().bits());
    }
  }
}

TEST_F(NormCudaTest, AddsToTheResidual) {
  for (const auto& [columns, gap] : {std::pair{301, 5}, {304, 8}, {5120, 0}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const DType residual_dtype : {DType::kF32, DType::kBF16}) {
        const TestMatrix x = rounded(random_matrix(random_, 70, columns, gap), dtype);
        const TestMatrix before = rounded(random_matrix(random_, 70, columns, gap), residual_dtype);
        const std::vector<float> weight = random_floats(random_, columns);
        TestMatrix sum = before;
        add(cpu(), x.view(), sum.view());
        sum = rounded(sum, residual_dtype);
        TestMatrix expected(70, columns, gap);
        rms_norm(cpu(), {sum.view(), weight.data(), 1e-6F, expected.view()});
        const DeviceMatrix device_x(x, dtype);
        const DeviceMatrix residual(before, residual_dtype);
        const DeviceMatrix y(TestMatrix(70, columns, gap), dtype);
        const DeviceVector<float> device_weight(weight);
        add_rms_norm(stream(),
                     {device_x.view(), residual.view(), device_weight.data(), 1e-6F, y.view()});
        EXPECT_EQ(residual.host().bits(), sum.bits());
        expect_close(y.host(), expected, tolerance_of(dtype));
        expect_gaps_untouched(y.host());
        expect_gaps_untouched(residual.host());
      }
    }
  }
}

}  // namespace
}  // namespace wideep::kernels
