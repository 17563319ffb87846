#include "kernels/heads.h"

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

TEST(CopyHeads, MovesEachHeadsColumnsOnly) {
  Random random(1);
  TestStream stream(2);
  for (int round = 0; round < 20; ++round) {
    const int heads = between(random, 1, 5);
    const int width = between(random, 1, 9);
    const int x_stride = width + between(random, 0, 4);
    const int y_stride = width + between(random, 0, 4);
    const int rows = between(random, 0, 40);
    const TestMatrix x = random_matrix(random, rows, heads * x_stride, 3);
    TestMatrix y(rows, heads * y_stride, 2);
    copy_heads(stream, {x.view(), x_stride, y.view(), y_stride, heads, width});
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < heads * y_stride; ++c) {
        if (c % y_stride < width) {
          ASSERT_EQ(y.at(r, c), x.at(r, c / y_stride * x_stride + c % y_stride));
        } else {
          ASSERT_TRUE(std::isnan(y.at(r, c)));
        }
      }
    }
    expect_gaps_untouched(y);
  }
}

TEST(NormHeads, GivesEachHeadUnitMeanSquare) {
  Random random(2);
  TestStream stream(2);
  for (int round = 0; round < 20; ++round) {
    const int heads = between(random, 1, 5);
    const int width = between(random, 1, 70);
    const int stride = width + between(random, 0, 4);
    const int rows = between(random, 0, 40);
    const TestMatrix before = random_matrix(random, rows, heads * stride, 3, 4);
    const std::vector<float> weight = random_floats(random, width);
    const bool is_weighted = round % 2 == 0;
    TestMatrix x = before;
    norm_heads(stream,
               {x.view(), stride, heads, width, is_weighted ? weight.data() : nullptr, 1e-5F});
    for (int r = 0; r < rows; ++r) {
      for (int h = 0; h < heads; ++h) {
        double sum = 0;
        for (int i = 0; i < width; ++i) {
          sum += static_cast<double>(before.at(r, h * stride + i)) * before.at(r, h * stride + i);
        }
        const double scale = 1 / std::sqrt(sum / width + 1e-5);
        for (int i = 0; i < stride; ++i) {
          const double value = before.at(r, h * stride + i);
          const double expected =
              i >= width ? value : value * scale * (is_weighted ? weight[i] : 1);
          ASSERT_NEAR(x.at(r, h * stride + i), expected, 1e-5);
        }
      }
    }
    expect_gaps_untouched(x);
  }
}

}  // namespace
}  // namespace wideep::kernels
