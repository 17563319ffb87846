#include "kernels/quantize.h"

#include <algorithm>

#include "base/float_formats.h"
#include "kernels/fp8_testing.h"

namespace wideep::kernels {
namespace {

class QuantizeCudaTest : public CudaTest {
 protected:
  // Rows of which some groups are zeros and some are tiny or huge.
  TestMatrix hard_rows(int64_t rows, int64_t columns, int64_t gap) {
    TestMatrix x = random_matrix(random_, rows, columns, gap);
    for (int64_t r = 0; r < rows; ++r) {
      const float range = std::array{1.0F, 1e-20F, 3e30F, 0.0F}[random_.below(4)];
      for (int64_t c = 0; c < std::min<int64_t>(columns, 128); ++c) x.row(r)[c] *= range;
    }
    return x;
  }
};

// Rows [begin, end) have exactly these codes and scales.
void expect_rows(const DeviceQuantized::Host& actual, const Fp8Matrix& expected, int64_t begin,
                 int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t c = 0; c < expected.columns; ++c) {
      ASSERT_EQ(actual.codes[static_cast<size_t>(r * expected.columns + c)],
                expected.codes[static_cast<size_t>(r * expected.columns + c)])
          << "row " << r << ", column " << c;
      ASSERT_EQ(actual.scales.at(r, c / kScaleColumns), expected.scale(r, c));
    }
  }
}

void expect_untouched(const DeviceQuantized::Host& actual, int64_t columns, int64_t begin,
                      int64_t end) {
  for (int64_t i = begin * columns; i < end * columns; ++i) {
    ASSERT_EQ(actual.codes[static_cast<size_t>(i)], kPoisonByte) << "row " << i / columns;
  }
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t b = 0; b < actual.scales.columns; ++b) {
      ASSERT_TRUE(std::isnan(actual.scales.at(r, b)));
    }
  }
}

TEST_F(QuantizeCudaTest, RowsAsTheHostRoundsThem) {
  for (const auto& [rows, columns, gap] :
       {std::tuple{0, 128, 0}, {1, 16, 0}, {3, 144, 1}, {17, 528, 8}, {200, 7168, 0}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const TestMatrix x = rounded(hard_rows(rows, columns, gap), dtype);
      const DeviceMatrix device_x(x, dtype);
      const DeviceQuantized y(rows, columns);
      quantize_rows(stream(), {device_x.view(), nullptr, y.view()});
      finish();
      expect_rows(y.host(), Fp8Matrix(x, 1), 0, rows);
    }
  }
}

TEST_F(QuantizeCudaTest, OnlyCountedRowsOfEachBatch) {
  constexpr int64_t kBatches = 5;
  constexpr int64_t kBatchRows = 12;
  constexpr int64_t kColumns = 272;
  const TestMatrix x = random_matrix(random_, kBatches * kBatchRows, kColumns);
  const DeviceMatrix device_x(x, DType::kBF16);
  const std::vector<int> counts = {0, 12, 1, 7, 0};
  const DeviceVector<int> device_counts(counts);
  const DeviceQuantized y(x.rows, kColumns, kBatchRows);
  quantize_rows(stream(), {device_x.view(), device_counts.data(), y.view()});
  finish();
  const DeviceQuantized::Host actual = y.host();
  const Fp8Matrix expected(rounded(x, DType::kBF16), 1);
  for (int64_t b = 0; b < kBatches; ++b) {
    const int64_t used = b * kBatchRows + counts[static_cast<size_t>(b)];
    expect_rows(actual, expected, b * kBatchRows, used);
    expect_untouched(actual, kColumns, used, (b + 1) * kBatchRows);
  }
}

TEST_F(QuantizeCudaTest, SiluMul) {
  for (const auto& [rows, columns] : {std::pair{1, 128}, {9, 400}, {70, 2048}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const TestMatrix x = rounded(random_matrix(random_, rows, 2 * columns, 0, 6), dtype);
      TestMatrix product(rows, columns);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          const double gate = x.at(r, c);
          product.row(r)[c] =
              static_cast<float>(gate / (1 + std::exp(-gate)) * x.at(r, columns + c));
        }
      }
      const DeviceMatrix device_x(x, dtype);
      const DeviceQuantized y(rows, columns);
      silu_mul_quantize(stream(), {device_x.view(), nullptr, y.view()});
      finish();
      const DeviceQuantized::Host actual = y.host();
      const Fp8Matrix expected(product, 1);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          const float scale = actual.scales.at(r, c / kScaleColumns);
          ASSERT_NEAR(scale, expected.scale(r, c), 1e-5 * expected.scale(r, c));
          // A product between two codes may go either way: half a step of the largest binade, 16.
          const float value =
              kE4M3Values[actual.codes[static_cast<size_t>(r * columns + c)]] * scale;
          const double step = std::max(0x1p-9 * scale, std::abs(product.at(r, c)) / 16.0);
          ASSERT_NEAR(value, product.at(r, c), 1.001 * step) << "row " << r << ", column " << c;
        }
      }
    }
  }
}

TEST_F(QuantizeCudaTest, GathersPairsAndZerosPadding) {
  constexpr int kTopK = 3;
  constexpr int kTokens = 20;
  constexpr int64_t kRows = 70;
  constexpr int64_t kColumns = 400;
  const TestMatrix x = random_matrix(random_, kTokens, kColumns, 8);
  const std::vector<float> scales = random_floats(random_, kTokens * kTopK, 2);
  std::vector<int> pairs(kRows);
  for (int& pair : pairs) pair = between(random_, -1, kTokens * kTopK - 1);
  pairs[5] = -1;
  const std::vector<int> used = {61};
  for (const bool is_scaled : {false, true}) {
    TestMatrix gathered(kRows, kColumns);
    for (int64_t r = 0; r < kRows; ++r) {
      const int pair = pairs[static_cast<size_t>(r)];
      for (int64_t c = 0; c < kColumns; ++c) {
        gathered.row(r)[c] = pair < 0 ? 0 : x.at(pair / kTopK, c);
        if (pair >= 0 && is_scaled) gathered.row(r)[c] *= scales[static_cast<size_t>(pair)];
      }
    }
    const DeviceMatrix device_x(x, DType::kF32);
    const DeviceVector<int> device_pairs(pairs);
    const DeviceVector<int> device_used(used);
    const DeviceVector<float> device_scales(scales);
    const DeviceQuantized y(kRows, kColumns);
    gather_quantize(stream(),
                    {device_x.view(), device_pairs.data(), kTopK,
                     is_scaled ? device_scales.data() : nullptr, device_used.data(), y.view()});
    finish();
    const DeviceQuantized::Host actual = y.host();
    expect_rows(actual, Fp8Matrix(gathered, 1), 0, used[0]);
    expect_untouched(actual, kColumns, used[0], kRows);
  }
}

TEST_F(QuantizeCudaTest, ArrangesScales) {
  constexpr int64_t kBatchRows = 68;
  constexpr int64_t kColumns = 128 * 37;
  const TestMatrix scales = random_matrix(random_, 3 * kBatchRows, 37, 1);
  const DeviceMatrix device_scales(scales, DType::kF32);
  const std::vector<int> counts = {68, 0, 33};
  const DeviceVector<int> device_counts(counts);
  const DeviceQuantized y(scales.rows, kColumns, kBatchRows);
  arrange_scales(stream(), {device_scales.view(), device_counts.data(), y.view()});
  finish();
  const TestMatrix actual = y.host().scales;
  for (int64_t r = 0; r < scales.rows; ++r) {
    const bool is_used = r % kBatchRows < counts[static_cast<size_t>(r / kBatchRows)];
    for (int64_t b = 0; b < 37; ++b) {
      if (is_used) {
        ASSERT_EQ(actual.at(r, b), scales.at(r, b)) << "row " << r << ", block " << b;
      } else {
        ASSERT_TRUE(std::isnan(actual.at(r, b)));
      }
    }
  }
}

}  // namespace
}  // namespace wideep::kernels
