#include "kernels/norm.h"

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

void expect_norm(const TestMatrix& x, const float* weight, double eps, const TestMatrix& y) {
  for (int64_t r = 0; r < x.rows; ++r) {
    double squares = 0;
    for (int64_t c = 0; c < x.columns; ++c) squares += static_cast<double>(x.at(r, c)) * x.at(r, c);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(x.columns) + eps);
    for (int64_t c = 0; c < x.columns; ++c) {
      const double expected = x.at(r, c) * factor * (weight != nullptr ? weight[c] : 1);
      ASSERT_NEAR(y.at(r, c), expected, 1e-6 * std::abs(expected)) << "row " << r;
    }
  }
}

TEST(RmsNormTest, MatchesDoubles) {
  Random random(1);
  TestStream stream(3);
  for (const auto& [rows, columns] : {std::pair{0, 4}, {1, 1}, {5, 15}, {9, 130}, {40, 7168}}) {
    const TestMatrix x = random_matrix(random, rows, columns, 3, 4);
    const std::vector<float> weight = random_floats(random, columns);
    TestMatrix y(rows, columns, 2);
    rms_norm(stream, {x.view(), weight.data(), 1e-5F, y.view()});
    expect_norm(x, weight.data(), 1e-5F, y);
    expect_gaps_untouched(y);
    rms_norm(stream, {x.view(), nullptr, 1e-6F, y.view()});
    expect_norm(x, nullptr, 1e-6F, y);
  }
}

TEST(RmsNormTest, InPlaceAndOfZeros) {
  Random random(2);
  TestStream stream(1);
  const TestMatrix before = random_matrix(random, 4, 33);
  TestMatrix x = before;
  rms_norm(stream, {x.view(), nullptr, 1e-6F, x.view()});
  expect_norm(before, nullptr, 1e-6F, x);
  TestMatrix zeros(1, 8);
  std::fill(zeros.values.begin(), zeros.values.end(), 0.0F);
  rms_norm(stream, {zeros.view(), nullptr, 1e-6F, zeros.view()});
  EXPECT_EQ(zeros.values, std::vector<float>(8, 0));
}

TEST(AddRmsNormTest, KeepsTheSumAndNormalisesIt) {
  Random random(3);
  TestStream stream(2);
  const TestMatrix x = random_matrix(random, 70, 301, 1);
  const TestMatrix before = random_matrix(random, 70, 301, 5);
  const std::vector<float> weight = random_floats(random, 301);
  TestMatrix residual = before;
  TestMatrix y(70, 301, 2);
  add_rms_norm(stream, {x.view(), residual.view(), weight.data(), 1e-6F, y.view()});
  for (int64_t r = 0; r < 70; ++r) {
    for (int64_t c = 0; c < 301; ++c) {
      ASSERT_EQ(residual.at(r, c), before.at(r, c) + x.at(r, c));
    }
  }
  expect_norm(residual, weight.data(), 1e-6F, y);
  expect_gaps_untouched(residual);
  expect_gaps_untouched(y);
}

TEST(RmsNormTest, RowsDependOnNothingElse) {
  Random random(4);
  const TestMatrix x = random_matrix(random, 200, 511);
  TestMatrix together(200, 511);
  TestMatrix alone(200, 511);
  TestStream four(4);
  TestStream one(1);
  rms_norm(four, {x.view(), nullptr, 1e-6F, together.view()});
  for (int64_t r = 0; r < 200; ++r) {
    rms_norm(one, {x.view().row_range(r, 1), nullptr, 1e-6F, alone.view().row_range(r, 1)});
  }
  EXPECT_EQ(together.bits(), alone.bits());
}

}  // namespace
}  // namespace wideep::kernels
