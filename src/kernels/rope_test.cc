#include "kernels/rope.h"

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

std::vector<double> inverse_frequencies(int n) {
  std::vector<double> result;
  for (int i = 0; i < n; ++i) result.push_back(std::pow(10000.0, -static_cast<double>(i) / n));
  return result;
}

TEST(RopeTableTest, IsExactFarOut) {
  TestStream stream(2);
  const std::vector<int> positions = {0, 1, 163839, 1'000'000};
  const std::vector<double> inv_freq = inverse_frequencies(7);
  TestMatrix table(4, 14, 1);
  rope_table(stream, {positions, inv_freq, 1.25, table.view()});
  for (int t = 0; t < 4; ++t) {
    for (int i = 0; i < 7; ++i) {
      const long double angle = static_cast<long double>(positions[t]) * inv_freq[i];
      EXPECT_NEAR(table.at(t, i), static_cast<double>(std::cos(angle)) * 1.25, 1e-7);
      EXPECT_NEAR(table.at(t, 7 + i), static_cast<double>(std::sin(angle)) * 1.25, 1e-7);
    }
  }
  expect_gaps_untouched(table);
}

// Rotated as complex numbers in double, and nothing else touched.
TEST(RopeTest, RotatesBothKindsOfPairs) {
  Random random(1);
  TestStream stream(3);
  for (const bool interleaved : {false, true}) {
    for (const auto& [rows, heads, n] : {std::tuple{0, 2, 4}, {1, 1, 1}, {9, 3, 5}, {200, 4, 32}}) {
      const int head_stride = 2 * n + 3;
      std::vector<int> positions;
      for (int t = 0; t < rows; ++t) positions.push_back(t * 13);
      TestMatrix table(rows, 2 * n);
      rope_table(stream, {positions, inverse_frequencies(n), 1, table.view()});
      const TestMatrix before = random_matrix(random, rows, heads * head_stride, 2);
      TestMatrix x = before;
      rope(stream, {in_place(x.view(), head_stride, heads), {}, table.view(), interleaved});
      TestMatrix expected = before;
      for (int t = 0; t < rows; ++t) {
        for (int pair = 0; pair < heads * n; ++pair) {
          const int head = pair / n * head_stride;
          const int i = pair % n;
          const int first = head + (interleaved ? 2 * i : i);
          const int second = head + (interleaved ? 2 * i + 1 : i + n);
          const double cosine = table.at(t, i);
          const double sine = table.at(t, n + i);
          const double a = before.at(t, first);
          const double b = before.at(t, second);
          expected.row(t)[first] = static_cast<float>(a * cosine - b * sine);
          expected.row(t)[second] = static_cast<float>(a * sine + b * cosine);
        }
        for (int c = 0; c < heads * head_stride; ++c) {
          ASSERT_NEAR(x.at(t, c), expected.at(t, c), 2e-7) << "token " << t << ", column " << c;
        }
      }
      expect_gaps_untouched(x);
    }
  }
}

TEST(RopeTest, PositionZeroChangesNothing) {
  Random random(2);
  TestStream stream(1);
  TestMatrix table(1, 16);
  const std::vector<int> positions = {0};
  rope_table(stream, {positions, inverse_frequencies(8), 1, table.view()});
  const TestMatrix before = random_matrix(random, 1, 32);
  TestMatrix x = before;
  rope(stream, {in_place(x.view(), 16, 2), {}, table.view(), true});
  EXPECT_EQ(x.bits(), before.bits());
}

}  // namespace
}  // namespace wideep::kernels
