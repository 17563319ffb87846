#include "kernels/linear.h"

#include <algorithm>

#include "base/float_formats.h"
#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

// A weight [out, in] as it came, and packed.
struct TestWeight {
  TestWeight(Random& random, int out_features, int in_features, DType dtype)
      : plain(random_matrix(random, out_features, in_features)),
        storage(packed_weight_bytes(out_features, in_features, dtype) + 64) {
    packed = {aligned(), dtype, out_features, in_features};
    pack_weight_rows(std::as_const(plain).view(), 0, out_features, dtype, aligned());
    if (dtype == DType::kBF16) {
      for (float& value : plain.values) value = bf16_to_float(float_to_bf16(value));
    }
  }
  TestWeight(TestWeight&&) = default;  // the storage keeps its place

  std::byte* aligned() {
    const auto address = reinterpret_cast<uintptr_t>(storage.data());
    return storage.data() + (64 - address % 64) % 64;
  }

  TestMatrix plain;  // rounded as the packed one
  std::vector<std::byte> storage;
  PackedWeight packed;
};

std::vector<TestWeight> random_weights(Random& random, int count, int out, int in, DType dtype) {
  std::vector<TestWeight> result;
  for (int i = 0; i < count; ++i) result.emplace_back(random, out, in, dtype);
  return result;
}

std::vector<PackedWeight> packed(const std::vector<TestWeight>& weights) {
  std::vector<PackedWeight> result;
  for (const TestWeight& weight : weights) result.push_back(weight.packed);
  return result;
}

// y within the bound of n rounded additions in any order.
void expect_product(const TestMatrix& x, const TestMatrix& weight, const TestMatrix& y) {
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t o = 0; o < weight.rows; ++o) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t i = 0; i < x.columns; ++i) {
        const double term = static_cast<double>(x.at(t, i)) * weight.at(o, i);
        sum += term;
        magnitude += std::abs(term);
      }
      const double bound = 0x1p-24 * static_cast<double>(x.columns + 1) * magnitude;
      ASSERT_NEAR(y.at(t, o), sum, bound) << "row " << t << ", output " << o;
    }
  }
}

TEST(LinearTest, IsTheProduct) {
  TestStream stream(3);
  for_each_instruction_set([&] {
    Random random(1);
    for (int trial = 0; trial < 60; ++trial) {
      const DType dtype = trial % 2 == 0 ? DType::kF32 : DType::kBF16;
      const int out = between(random, 1, 200);
      const int in = between(random, 1, trial % 10 == 0 ? 700 : 90);
      const TestWeight weight(random, out, in, dtype);
      const TestMatrix x = random_matrix(random, between(random, 1, 40), in, trial % 5);
      TestMatrix y(x.rows, out, trial % 3);
      linear(stream, x.view(), weight.packed, y.view());
      expect_product(x, weight.plain, y);
      expect_gaps_untouched(y);
    }
  });
}

// More rows and inputs than are multiplied at a time.
TEST(LinearTest, SeveralBlocksOfRowsAndInputs) {
  TestStream stream(2);
  Random random(2);
  for (const auto& [rows, out, in] : {std::tuple{300, 70, 50}, {13, 41, 4100}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const TestWeight weight(random, out, in, dtype);
      const TestMatrix x = random_matrix(random, rows, in);
      TestMatrix y(rows, out);
      linear(stream, x.view(), weight.packed, y.view());
      expect_product(x, weight.plain, y);
      TestMatrix single(rows, out);
      for (int64_t t = 0; t < rows; ++t) {
        linear(stream, x.view().row_range(t, 1), weight.packed, single.view().row_range(t, 1));
      }
      EXPECT_EQ(single.bits(), y.bits());
    }
  }
}

TEST(LinearTest, RowsDependOnNothingElse) {
  Random random(3);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const TestWeight weight(random, 300, 129, dtype);
    const TestMatrix x = random_matrix(random, 150, 129);
    TestStream one(1);
    TestMatrix single(x.rows, 300);
    for (int64_t t = 0; t < x.rows; ++t) {
      linear(one, x.view().row_range(t, 1), weight.packed, single.view().row_range(t, 1));
    }
    for (const int threads : {1, 4}) {
      TestStream stream(threads);
      for (const int rows : {2, 3, 5, 8, 9, 31, 64, 65, 150}) {
        TestMatrix y(rows, 300);
        linear(stream, x.view().row_range(x.rows - rows, rows), weight.packed, y.view());
        const std::vector<uint32_t> bits = single.bits();
        EXPECT_EQ(y.bits(), std::vector<uint32_t>(bits.end() - rows * 300, bits.end()))
            << rows << " rows, " << threads << " threads";
      }
    }
  }
}

TEST(LinearTest, SameBitsForEveryWidthOfRegisters) {
  TestStream stream(1);
  expect_same_on_wide_instruction_sets([&] {
    Random random(4);
    const TestWeight weight(random, 77, 130, DType::kBF16);
    const TestMatrix x = random_matrix(random, 21, 130);
    TestMatrix y(21, 77);
    linear(stream, x.view(), weight.packed, y.view());
    return y.bits();
  });
}

TEST(LinearTest, NoRows) {
  TestStream stream(2);
  Random random(5);
  const TestWeight weight(random, 8, 8, DType::kF32);
  const TestMatrix x(0, 8);
  TestMatrix y(0, 8);
  linear(stream, x.view(), weight.packed, y.view());
}

TEST(PackedWeightTest, PiecesMakeTheWhole) {
  Random random(6);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const int out = 3 * kPackedRows + 5;
    TestWeight whole(random, out, 11, dtype);
    TestWeight pieces(random, out, 11, dtype);
    for (int row = 0; row < out; row += kPackedRows) {
      pack_weight_rows(
          std::as_const(whole.plain).view().row_range(row, std::min(kPackedRows, out - row)), row,
          out, dtype, pieces.aligned());
    }
    const int64_t bytes = packed_weight_bytes(out, 11, dtype);
    EXPECT_EQ(bytes % 64, 0);
    EXPECT_TRUE(std::equal(whole.aligned(), whole.aligned() + bytes, pieces.aligned()));
  }
}

TEST(HeadLinearTest, IsLinearOfEachHead) {
  Random random(7);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int threads : {1, 3}) {
      constexpr int kHeads = 5;
      constexpr int kIn = 48;
      constexpr int kOut = 70;
      const std::vector<TestWeight> weights = random_weights(random, kHeads, kOut, kIn, dtype);
      const std::vector<PackedWeight> views = packed(weights);
      // Heads lie apart, as the two parts of a query do.
      const TestMatrix x = random_matrix(random, 77, kHeads * (kIn + 9), 3);
      TestMatrix y(x.rows, kHeads * (kOut + 6), 1);
      TestStream stream(threads);
      head_linear(stream, {x.view(), kIn + 9, views, y.view(), kOut + 6});
      for (int h = 0; h < kHeads; ++h) {
        TestMatrix expected(x.rows, kOut);
        linear(stream, x.view().column_range(h * (kIn + 9), kIn), views[h], expected.view());
        TestMatrix actual(x.rows, kOut);
        for (int64_t t = 0; t < x.rows; ++t) {
          const float* head = y.row(t) + h * (kOut + 6);
          std::copy_n(head, kOut, actual.row(t));
          EXPECT_TRUE(std::all_of(head + kOut, head + kOut + 6, [](float v) { return v != v; }));
        }
        EXPECT_EQ(actual.bits(), expected.bits());
      }
      expect_gaps_untouched(y);
    }
  }
}

TEST(GroupedLinearTest, IsLinearOfEachGroup) {
  Random random(8);
  for (int trial = 0; trial < 20; ++trial) {
    const DType dtype = trial % 2 == 0 ? DType::kF32 : DType::kBF16;
    const int groups = between(random, 1, 12);
    const int in = between(random, 1, 100);
    const int out = between(random, 1, 300);
    const std::vector<TestWeight> weights = random_weights(random, groups, out, in, dtype);
    const std::vector<PackedWeight> views = packed(weights);
    std::vector<int> offsets = {0};
    for (int g = 0; g < groups; ++g) {  // a third are empty
      offsets.push_back(offsets.back() + (g % 3 == 1 ? 0 : between(random, 1, 40)));
    }
    const int rows = offsets.back();
    const TestMatrix x = random_matrix(random, rows + 4, in, 2);  // four rows of no group
    TestMatrix y(rows + 4, out);
    TestStream stream(between(random, 1, 4));
    grouped_linear(stream, {x.view(), offsets, views, y.view()});
    TestMatrix expected(rows + 4, out);
    for (int g = 0; g < groups; ++g) {
      const int count = offsets[g + 1] - offsets[g];
      linear(stream, x.view().row_range(offsets[g], count), views[g],
             expected.view().row_range(offsets[g], count));
    }
    EXPECT_EQ(y.bits(), expected.bits());
  }
}

TEST(GroupedLinearTest, NoGroupsAndOnlyEmptyOnes) {
  Random random(9);
  TestStream stream(2);
  const TestMatrix x(0, 4);
  TestMatrix y(0, 5);
  const std::vector<int> none = {0};
  grouped_linear(stream, {x.view(), none, {}, y.view()});
  const std::vector<TestWeight> weights = random_weights(random, 2, 5, 4, DType::kF32);
  const std::vector<PackedWeight> views = packed(weights);
  const std::vector<int> empty = {0, 0, 0};
  grouped_linear(stream, {x.view(), empty, views, y.view()});
}

}  // namespace
}  // namespace wideep::kernels
