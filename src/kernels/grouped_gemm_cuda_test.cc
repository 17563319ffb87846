#include "kernels/grouped_gemm.h"

#include <algorithm>

#include "kernels/fp8_testing.h"

namespace wideep::kernels {
namespace {

class GroupedGemmCudaTest : public CudaTest {
 protected:
  DeviceWeights weights(DType dtype, int groups, int out, int in) {
    return {stream(), random_, {nullptr, dtype, groups, out, in}};
  }
};

// Rows on the device in the type that weights of `dtype` multiply.
struct DeviceRows {
  DeviceRows(Stream& stream, const TestMatrix& x, DType dtype, int64_t batch_rows = 0)
      : floats(x, dtype == DType::kF32 ? DType::kF32 : DType::kBF16),
        quantized(dtype == DType::kF8E4M3 ? x.rows : 0, x.columns, batch_rows),
        seen(as_multiplied(rounded(x, DType::kBF16), dtype, 1)) {
    view = {floats.view()};
    if (dtype == DType::kF32) seen = x;
    if (dtype != DType::kF8E4M3) return;
    quantize_rows(stream, {floats.view(), nullptr, quantized.view()});
    view = quantized.view();
  }

  DeviceMatrix floats;
  DeviceQuantized quantized;
  TestMatrix seen;  // what is multiplied
  ScaledRows view;
};

DType output_of(DType dtype) {
  return dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
}

struct Shape {
  int groups;
  int out;
  int in;
};

constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF8E4M3};

// Sizes that every kernel takes, and such that only the plain one does.
constexpr Shape kShapes[] = {{1, 128, 128}, {3, 576, 256}, {5, 200, 400}, {4, 136, 144}};

TEST_F(GroupedGemmCudaTest, ContiguousIsTheProductOfEachGroup) {
  for (const DType dtype : kTypes) {
    for (const Shape& shape : kShapes) {
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << ", " << shape.groups << " groups, "
                                      << shape.out << " x " << shape.in);
      const DeviceWeights weight = weights(dtype, shape.groups, shape.out, shape.in);
      std::vector<int> offsets = {0};
      for (int g = 0; g < shape.groups; ++g) {  // some are empty
        offsets.push_back(offsets.back() + kGroupAlignment * between(random_, g % 2, 2));
      }
      // The host's bound is larger than what is used.
      const TestMatrix x = random_matrix(random_, offsets.back() + 2 * kGroupAlignment, shape.in);
      const DeviceRows rows(stream(), x, dtype);
      const DeviceVector<int> device_offsets(offsets);
      const DeviceMatrix y(TestMatrix(x.rows, shape.out, 8), output_of(dtype));
      grouped_gemm_contiguous(stream(),
                              {rows.view, device_offsets.data(), weight.view(), y.view()});
      finish();
      const TestMatrix result = y.host();
      TestMatrix expected(x.rows, shape.out);
      for (int g = 0; g < shape.groups; ++g) {
        const size_t at = static_cast<size_t>(g);
        copy_rows(product_of(rows_of(rows.seen, offsets[at], offsets[at + 1] - offsets[at]),
                             weight.plain(g)),
                  offsets[at], expected);
      }
      expect_close(result, expected, tolerance_of(output_of(dtype)));
      expect_gaps_untouched(result);
    }
  }
}

// Many groups, of every number of waves and none; rows that are in use do not depend on the others.
TEST_F(GroupedGemmCudaTest, ContiguousLeavesOutWhatNobodyUses) {
  constexpr Shape kShape = {70, 512, 256};
  for (const DType dtype : {DType::kF8E4M3, DType::kBF16}) {
    SCOPED_TRACE(dtype_name(dtype));
    const DeviceWeights weight = weights(dtype, kShape.groups, kShape.out, kShape.in);
    std::vector<int> counts = {0, 1, 63, 64, 65, 128, 129, 255, 257, 320, 321, 577, 0};
    while (std::ssize(counts) < kShape.groups) counts.push_back(between(random_, 0, 200));
    std::vector<int> offsets = {0};
    for (const int count : counts) {
      offsets.push_back(offsets.back() +
                        (count + kGroupAlignment - 1) / kGroupAlignment * kGroupAlignment);
    }
    const TestMatrix x = random_matrix(random_, offsets.back(), kShape.in);
    const DeviceRows rows(stream(), x, dtype);
    const DeviceVector<int> device_offsets(offsets);
    const DeviceVector<int> device_counts(counts);
    const DeviceMatrix y(TestMatrix(x.rows, kShape.out, 8), output_of(dtype));
    const DeviceMatrix all(TestMatrix(x.rows, kShape.out), output_of(dtype));
    grouped_gemm_contiguous(stream(), {rows.view, device_offsets.data(), weight.view(), y.view(),
                                       device_counts.data()});
    grouped_gemm_contiguous(stream(),
                            {rows.view, device_offsets.data(), weight.view(), all.view()});
    finish();
    const TestMatrix result = y.host();
    const TestMatrix of_all = all.host();
    for (int g = 0; g < kShape.groups; ++g) {
      const auto at = static_cast<size_t>(g);
      const TestMatrix used = rows_of(result, offsets[at], counts[at]);
      expect_close(used, product_of(rows_of(rows.seen, offsets[at], counts[at]), weight.plain(g)),
                   tolerance_of(output_of(dtype)));
      EXPECT_EQ(used.bits(), rows_of(of_all, offsets[at], counts[at]).bits());
    }
    expect_gaps_untouched(result);
  }
}

TEST_F(GroupedGemmCudaTest, MaskedIsTheProductOfEachGroup) {
  for (const DType dtype : kTypes) {
    for (const Shape& shape : kShapes) {
      for (const int64_t max_rows : {int64_t{20}, int64_t{64}, int64_t{192}}) {
        SCOPED_TRACE(testing::Message()
                     << dtype_name(dtype) << ", " << shape.groups << " groups of " << max_rows
                     << ", " << shape.out << " x " << shape.in);
        const DeviceWeights weight = weights(dtype, shape.groups, shape.out, shape.in);
        std::vector<int> counts;
        for (int g = 0; g < shape.groups; ++g) {
          counts.push_back(g % 3 == 1 ? 0 : between(random_, 1, static_cast<int>(max_rows)));
        }
        const TestMatrix x = random_matrix(random_, shape.groups * max_rows, shape.in);
        const DeviceRows rows(stream(), x, dtype, max_rows);
        const DeviceVector<int> device_counts(counts);
        const DeviceMatrix y(TestMatrix(x.rows, shape.out, 8), output_of(dtype));
        grouped_gemm_masked(
            stream(), {rows.view, device_counts.data(), max_rows, 0, weight.view(), y.view()});
        finish();
        const TestMatrix result = y.host();
        for (int g = 0; g < shape.groups; ++g) {
          const int count = counts[static_cast<size_t>(g)];
          expect_close(rows_of(result, g * max_rows, count),
                       product_of(rows_of(rows.seen, g * max_rows, count), weight.plain(g)),
                       tolerance_of(output_of(dtype)));
        }
        expect_gaps_untouched(result);
      }
    }
  }
}

// The bits of a row, in every layout, with every size of tiles, at every place, beside any other
// rows. The tiles side by side are even and odd in number.
TEST_F(GroupedGemmCudaTest, RowsDependOnNothingElse) {
  constexpr int kIn = 4224;
  for (const auto& [dtype, out] : {std::pair{DType::kF32, 128},
                                   {DType::kBF16, 384},
                                   {DType::kBF16, 512},
                                   {DType::kF8E4M3, 384},
                                   {DType::kF8E4M3, 512}}) {
    SCOPED_TRACE(testing::Message() << dtype_name(dtype) << ", " << out << " outputs");
    const DeviceWeights weight = weights(dtype, 2, out, kIn);
    TestMatrix x = random_matrix(random_, 256, kIn);
    const TestMatrix one = rows_of(x, 0, 1);
    copy_rows(one, 77, x);
    copy_rows(one, 200, x);
    const DeviceVector<int> offsets(std::vector<int>{0, 0, 256});
    const DeviceMatrix y(TestMatrix(256, out), output_of(dtype));
    const DeviceRows rows(stream(), x, dtype);
    grouped_gemm_contiguous(stream(), {rows.view, offsets.data(), weight.view(), y.view()});
    finish();
    const std::vector<uint32_t> expected = rows_of(y.host(), 0, 1).bits();
    EXPECT_EQ(rows_of(y.host(), 77, 1).bits(), expected);
    EXPECT_EQ(rows_of(y.host(), 200, 1).bits(), expected);
    const DeviceVector<int> counts(std::vector<int>{0, 78});
    TestMatrix others = random_matrix(random_, 256, kIn);
    copy_rows(one, 128 + 77, others);
    const DeviceRows other_rows(stream(), others, dtype, 128);
    for (const int expected_rows : {1, 16, 40, 100}) {
      const DeviceMatrix masked_y(TestMatrix(256, out), output_of(dtype));
      grouped_gemm_masked(stream(), {other_rows.view, counts.data(), 128, expected_rows,
                                     weight.view(), masked_y.view()});
      finish();
      EXPECT_EQ(rows_of(masked_y.host(), 128 + 77, 1).bits(), expected);
    }
  }
}

TEST_F(GroupedGemmCudaTest, NothingToDo) {
  for (const DType dtype : kTypes) {
    const DeviceWeights weight = weights(dtype, 3, 128, 128);
    const TestMatrix x = random_matrix(random_, 3 * 128, 128);
    const DeviceRows rows(stream(), x, dtype, 128);
    const DeviceMatrix y(TestMatrix(x.rows, 128), output_of(dtype));
    const DeviceVector<int> zeros(std::vector<int>{0, 0, 0, 0});
    grouped_gemm_masked(stream(), {rows.view, zeros.data(), 128, 0, weight.view(), y.view()});
    grouped_gemm_contiguous(
        stream(), {DeviceRows(stream(), x, dtype).view, zeros.data(), weight.view(), y.view()});
    grouped_gemm_contiguous(stream(), {DeviceRows(stream(), TestMatrix(0, 128), dtype).view,
                                       zeros.data(), weight.view(), y.view().row_range(0, 0)});
    finish();
    const TestMatrix result = y.host();
    EXPECT_TRUE(std::all_of(result.values.begin(), result.values.end(),
                            [](float value) { return std::isnan(value); }));
  }
}

}  // namespace
}  // namespace wideep::kernels
