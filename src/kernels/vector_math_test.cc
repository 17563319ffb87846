#include "kernels/vector_math.h"

#include <algorithm>

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

// Steps of a float between two floats.
double ulps(float actual, double expected) {
  const float rounded = static_cast<float>(expected);
  const double ulp = std::nextafter(std::abs(rounded), INFINITY) - std::abs(rounded);
  return std::abs(actual - expected) / ulp;
}

TEST(ExpRowTest, IsWithinTwoUlps) {
  for_each_instruction_set([] {
    std::vector<float> x;
    for (float value = -87; value < 88; value += 0.00917F) x.push_back(value);
    std::vector<float> y(x.size());
    exp_row(x.data(), 0, 1, static_cast<int64_t>(x.size()), y.data());
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      worst = std::max(worst, ulps(y[i], std::exp(static_cast<double>(x[i]))));
    }
    EXPECT_LE(worst, 2);
  });
}

TEST(ExpRowTest, ShiftsScalesAndTakesEveryLength) {
  for_each_instruction_set([] {
    Random random(1);
    for (int count = 0; count < 70; ++count) {
      const std::vector<float> x = random_floats(random, count, 5);
      std::vector<float> y(count + 1, -1);
      const float total = exp_row(x.data(), 0.5F, 1.5F, count, y.data());
      double sum = 0;
      for (int i = 0; i < count; ++i) {
        const double expected = std::exp((static_cast<double>(x[i]) - 0.5) * 1.5);
        EXPECT_NEAR(y[i] / expected, 1, 2e-6);
        sum += expected;
      }
      EXPECT_NEAR(total, sum, 2e-6 * sum);
      EXPECT_EQ(y[count], -1) << "wrote beyond the row";
    }
  });
}

TEST(ExpRowTest, EndsOfTheRange) {
  for_each_instruction_set([] {
    const float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> x = {-infinity, -200, 0, 89, 1000, infinity};
    std::vector<float> y(x.size());
    exp_row(x.data(), 0, 1, static_cast<int64_t>(x.size()), y.data());
    EXPECT_EQ(y, (std::vector<float>{0, 0, 1, infinity, infinity, infinity}));
    const float nan = std::nanf("");
    exp_row(&nan, 0, 1, 1, y.data());
    EXPECT_TRUE(std::isnan(y[0]));
  });
}

TEST(SigmoidRowTest, IsCloseToTheStandardLibrary) {
  for_each_instruction_set([] {
    std::vector<float> x;
    for (float value = -80; value < 80; value += 0.0131F) x.push_back(value);
    std::vector<float> y(x.size());
    sigmoid_row(x.data(), static_cast<int64_t>(x.size()), y.data());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_LE(ulps(y[i], 1 / (1 + std::exp(-static_cast<double>(x[i])))), 4) << x[i];
    }
  });
}

TEST(SigmoidRowTest, Saturates) {
  const std::vector<float> x = {-1000, 1000};
  std::vector<float> y(2);
  sigmoid_row(x.data(), 2, y.data());
  EXPECT_EQ(y, (std::vector<float>{0, 1}));
}

TEST(SiluMulRowTest, IsWithinAMillionth) {
  for_each_instruction_set([] {
    std::vector<float> gate;
    for (float value = -80; value < 80; value += 0.0171F) gate.push_back(value);
    const std::vector<float> up(gate.size(), 3);
    std::vector<float> y(gate.size());
    silu_mul_row(gate.data(), up.data(), static_cast<int64_t>(gate.size()), y.data());
    for (size_t i = 0; i < gate.size(); ++i) {
      const double x = gate[i];
      const double expected = 3 * x / (1 + std::exp(-x));
      ASSERT_NEAR(y[i], expected, 1e-6 * std::abs(expected)) << x;
    }
  });
}

TEST(MaxFiniteRowTest, FindsTheLargestOfEveryLength) {
  for_each_instruction_set([] {
    const float infinity = std::numeric_limits<float>::infinity();
    Random random(2);
    EXPECT_EQ(max_finite_row(nullptr, 0), -infinity);
    for (int count = 1; count < 70; ++count) {
      std::vector<float> x = random_floats(random, count, 5);
      EXPECT_EQ(max_finite_row(x.data(), count), *std::max_element(x.begin(), x.end()));
      const float first = x[0];
      for (int i = 1; i < count; ++i) x[i] = i % 3 == 0 ? infinity : i % 3 == 1 ? NAN : -infinity;
      EXPECT_EQ(max_finite_row(x.data(), count), first);
    }
  });
}

TEST(VectorMathTest, SameBitsForEveryWidthOfRegisters) {
  expect_same_on_wide_instruction_sets([] {
    Random random(3);
    const std::vector<float> x = random_floats(random, 1003, 10);
    std::vector<float> y(3 * x.size());
    const auto count = static_cast<int64_t>(x.size());
    y.push_back(exp_row(x.data(), 1, 0.7F, count, y.data()));
    sigmoid_row(x.data(), count, y.data() + count);
    silu_mul_row(x.data(), x.data(), count, y.data() + 2 * count);
    return y;
  });
}

}  // namespace
}  // namespace wideep::kernels
