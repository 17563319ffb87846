#include "kernels/heads.h"

#include "kernels/cuda_testing.h"

namespace wideep::kernels {
namespace {

class HeadsCudaTest : public CudaTest {
 protected:
  // Aligned ones, which vectors are for, and odd ones.
  struct Heads {
    int rows;
    int count;
    int width;
    int x_stride;
    int y_stride;
    int gap;
  };
  Heads random_heads(bool is_aligned) {
    const int unit = is_aligned ? 8 : 1;
    Heads heads = {};
    heads.rows = between(random_, 0, 40);
    heads.count = between(random_, 1, 5);
    heads.width = unit * between(random_, 1, 24);
    heads.x_stride = heads.width + unit * between(random_, 0, 3);
    heads.y_stride = heads.width + unit * between(random_, 0, 3);
    heads.gap = unit * between(random_, 0, 3);
    return heads;
  }
};

TEST_F(HeadsCudaTest, CopyMovesEachHeadsColumnsOnly) {
  for (int round = 0; round < 24; ++round) {
    const Heads h = random_heads(round % 2 == 0);
    const DType x_dtype = round % 3 == 0 ? DType::kF32 : DType::kBF16;
    const DType y_dtype = round % 4 < 2 ? DType::kF32 : DType::kBF16;
    const TestMatrix x =
        rounded(random_matrix(random_, h.rows, h.count * h.x_stride, h.gap), x_dtype);
    TestMatrix expected(h.rows, h.count * h.y_stride, h.gap);
    copy_heads(cpu(), {x.view(), h.x_stride, expected.view(), h.y_stride, h.count, h.width});
    const DeviceMatrix device_x(x, x_dtype);
    const DeviceMatrix y(TestMatrix(h.rows, h.count * h.y_stride, h.gap), y_dtype);
    copy_heads(stream(), {device_x.view(), h.x_stride, y.view(), h.y_stride, h.count, h.width});
    expect_close(y.host(), rounded(expected, y_dtype), 0);  // and NaN between the heads
    expect_gaps_untouched(y.host());
  }
}

TEST_F(HeadsCudaTest, NormMatchesTheCpu) {
  for (int round = 0; round < 24; ++round) {
    const Heads h = random_heads(round % 2 == 0);
    const DType dtype = round % 3 == 0 ? DType::kBF16 : DType::kF32;
    const TestMatrix before =
        rounded(random_matrix(random_, h.rows, h.count * h.x_stride, h.gap, 4), dtype);
    const std::vector<float> weight = random_floats(random_, h.width);
    const DeviceVector<float> device_weight(weight);
    for (const bool is_weighted : {false, true}) {
      TestMatrix expected = before;
      const DeviceMatrix x(before, dtype);
      norm_heads(cpu(), {expected.view(), h.x_stride, h.count, h.width,
                         is_weighted ? weight.data() : nullptr, 1e-5F});
      norm_heads(stream(), {x.view(), h.x_stride, h.count, h.width,
                            is_weighted ? device_weight.data() : nullptr, 1e-5F});
      expect_close(x.host(), expected, tolerance_of(dtype));
      expect_gaps_untouched(x.host());
    }
  }
}

}  // namespace
}  // namespace wideep::kernels
