#include "kernels/elementwise.h"

#include "base/float_formats.h"
#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

// Sizes that exercise empty, small and split loops.
struct Shape {
  int rows;
  int columns;
};
constexpr Shape kShapes[] = {{0, 5}, {1, 1}, {3, 16}, {7, 37}, {300, 500}};

TEST(EmbeddingTest, CopiesRowsOfBothDtypes) {
  Random random(1);
  TestStream stream(3);
  const TestMatrix table = random_matrix(random, 50, 37, 2);
  std::vector<uint16_t> narrow;
  for (const float value : table.values) narrow.push_back(float_to_bf16(value));
  const ConstMatrixView narrow_view = {reinterpret_cast<const std::byte*>(narrow.data()),
                                       DType::kBF16, table.rows, table.columns, table.stride};
  const std::vector<int> ids = {3, 49, -1, 0, 3};
  TestMatrix wide(5, 37, 1);
  TestMatrix rounded(5, 37, 1);
  embedding(stream, table.view(), ids, wide.view());
  embedding(stream, narrow_view, ids, rounded.view());
  for (int t = 0; t < 5; ++t) {
    for (int c = 0; c < 37; ++c) {
      const float expected = ids[t] < 0 ? 0 : table.at(ids[t], c);
      EXPECT_EQ(wide.at(t, c), expected);
      EXPECT_EQ(rounded.at(t, c), bf16_to_float(float_to_bf16(expected)));
    }
  }
  expect_gaps_untouched(wide);
}

TEST(SiluMulTest, MatchesDoubles) {
  Random random(2);
  TestStream stream(2);
  for (const auto [rows, columns] : kShapes) {
    const TestMatrix x = random_matrix(random, rows, 2 * columns, 3, 10);
    TestMatrix y(rows, columns, 1);
    silu_mul(stream, x.view(), y.view());
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        const double gate = x.at(r, c);
        const double expected = gate / (1 + std::exp(-gate)) * x.at(r, columns + c);
        ASSERT_NEAR(y.at(r, c), expected, 1e-6 * std::abs(expected));
      }
    }
    expect_gaps_untouched(y);
  }
}

TEST(SiluMulTest, LeavesRowsThatAreNotInUse) {
  Random random(4);
  TestStream stream(2);
  const TestMatrix x = random_matrix(random, 9, 10);
  TestMatrix all(9, 5);
  silu_mul(stream, x.view(), all.view());
  for (const int num_rows : {0, 4, 9}) {
    TestMatrix y(9, 5);
    silu_mul(stream, x.view(), y.view(), &num_rows);
    for (int r = 0; r < 9; ++r) {
      for (int c = 0; c < 5; ++c) {
        if (r < num_rows) {
          EXPECT_EQ(y.at(r, c), all.at(r, c));
        } else {
          EXPECT_TRUE(std::isnan(y.at(r, c))) << "row " << r;  // the poison that it began with
        }
      }
    }
  }
}

// The four ops of one rounding each, against the same rounding in plain loops.
TEST(ElementwiseTest, AddBiasAndScale) {
  Random random(3);
  TestStream stream(2);
  for (const auto [rows, columns] : kShapes) {
    const TestMatrix x = random_matrix(random, rows, columns, 2);
    const TestMatrix before = random_matrix(random, rows, columns, 1);
    const std::vector<float> bias = random_floats(random, columns);
    const std::vector<float> factors = random_floats(random, rows);
    TestMatrix sum = before;
    TestMatrix biased = before;
    TestMatrix scaled = before;
    add(stream, x.view(), sum.view());
    add_bias(stream, bias.data(), biased.view());
    scale_rows(stream, factors, scaled.view());
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        ASSERT_EQ(sum.at(r, c), before.at(r, c) + x.at(r, c));
        ASSERT_EQ(biased.at(r, c), before.at(r, c) + bias[c]);
        ASSERT_EQ(scaled.at(r, c), before.at(r, c) * factors[r]);
      }
    }
    expect_gaps_untouched(sum);
    expect_gaps_untouched(biased);
    expect_gaps_untouched(scaled);
  }
}

}  // namespace
}  // namespace wideep::kernels
