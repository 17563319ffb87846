#include "kernels/permute.h"

#include "kernels/cuda_testing.h"

namespace wideep::kernels {
namespace {

// What make_permutation writes, poisoned before.
struct Outputs {
  Outputs(int64_t num_pairs, int num_groups, int row_alignment, int group_rows)
      : offsets(num_groups + 1, -7),
        rows(num_pairs, -7),
        pairs(group_rows > 0 ? int64_t{num_groups} * group_rows
                             : max_permuted_rows(num_pairs, num_groups, row_alignment),
              -7),
        group_of_row(pairs.size(), -7),
        counts(num_groups, -7) {}

  std::vector<int> offsets;
  std::vector<int> rows;
  std::vector<int> pairs;
  std::vector<int> group_of_row;
  std::vector<int> counts;
};

class PermuteCudaTest : public CudaTest {
 protected:
  void expect_as_cpu(const std::vector<int32_t>& ids, int group_begin, int num_groups,
                     int row_alignment, int group_rows = 0) {
    SCOPED_TRACE(testing::Message() << ids.size() << " pairs, " << num_groups
                                    << " groups, alignment " << row_alignment);
    Outputs expected(static_cast<int64_t>(ids.size()), num_groups, row_alignment, group_rows);
    const DeviceVector<int32_t> device_ids(ids);
    const DeviceVector<int> offsets(expected.offsets);
    const DeviceVector<int> rows(expected.rows);
    const DeviceVector<int> pairs(expected.pairs);
    const DeviceVector<int> group_of_row(expected.group_of_row);
    const DeviceVector<int> counts(expected.counts);
    make_permutation(cpu(), {ids, group_begin, num_groups, expected.offsets.data(),
                             expected.rows.data(), expected.pairs.data(), row_alignment,
                             expected.group_of_row.data(), group_rows, expected.counts.data()});
    make_permutation(stream(),
                     {device_ids.span(), group_begin, num_groups, offsets.data(), rows.data(),
                      pairs.data(), row_alignment, group_of_row.data(), group_rows, counts.data()});
    ASSERT_EQ(offsets.host(), expected.offsets);
    ASSERT_EQ(rows.host(), expected.rows);
    ASSERT_EQ(pairs.host(), expected.pairs);
    ASSERT_EQ(group_of_row.host(), expected.group_of_row);
    ASSERT_EQ(counts.host(), expected.counts);
  }

  std::vector<int32_t> random_ids(int count, int low, int high) {
    std::vector<int32_t> ids(count);
    for (int32_t& id : ids) id = between(random_, low, high);
    return ids;
  }
};

TEST_F(PermuteCudaTest, SmallBatches) {
  for (int trial = 0; trial < 60; ++trial) {
    const int groups = between(random_, 0, 40);
    const std::vector<int32_t> ids = random_ids(between(random_, 0, 2048), -1, 45);
    expect_as_cpu(ids, between(random_, 0, 5), groups, trial % 3 == 0 ? 128 : 1 + trial % 5);
  }
}

// Sizes about 2048, where one block no longer does it all.
TEST_F(PermuteCudaTest, LargeBatches) {
  for (const int count : {2047, 2048, 2049, 6144, 20000, 150001}) {
    expect_as_cpu(random_ids(count, 0, 255), 0, 256, 1);
    expect_as_cpu(random_ids(count, -1, 300), 32, 9, 128);
    expect_as_cpu(random_ids(count, 0, 1500), 100, kMaxPermutationGroups, 8);
    expect_as_cpu(std::vector<int32_t>(count, 3), 0, 8, 128);  // everything in one group
  }
}

TEST_F(PermuteCudaTest, GroupsWithRoomForAllTokens) {
  for (const int tokens : {0, 1, 63, 256, 2000}) {
    std::vector<int32_t> ids = random_ids(tokens, 0, 40);  // top_k 1
    expect_as_cpu(ids, 3, 30, 1, std::max(64, tokens));
  }
}

TEST_F(PermuteCudaTest, WithoutGroupsOfRows) {
  const DeviceVector<int32_t> ids(std::vector<int32_t>{2, 0, 2});
  const DeviceVector<int> offsets(std::vector<int>(4, -7));
  const DeviceVector<int> rows(std::vector<int>(3, -7));
  const DeviceVector<int> pairs(std::vector<int>(3, -7));
  make_permutation(stream(), {ids.span(), 0, 3, offsets.data(), rows.data(), pairs.data()});
  EXPECT_EQ(offsets.host(), (std::vector<int>{0, 1, 1, 3}));
  EXPECT_EQ(rows.host(), (std::vector<int>{1, 0, 2}));
  EXPECT_EQ(pairs.host(), (std::vector<int>{1, 0, 2}));
}

struct RowShape {
  int rows;
  int columns;
  int gap;
};
constexpr RowShape kRowShapes[] = {
    {0, 8, 0}, {1, 3, 0}, {90, 130, 3}, {300, 264, 8}, {60, 7168, 0}};
constexpr DType kDTypes[] = {DType::kF32, DType::kBF16};

TEST_F(PermuteCudaTest, GatherGivesTheCpusBits) {
  for (const auto& [rows, columns, gap] : kRowShapes) {
    for (const DType x_dtype : kDTypes) {
      for (const DType y_dtype : kDTypes) {
        const TestMatrix x = rounded(random_matrix(random_, rows, columns, gap), x_dtype);
        const std::vector<int> pairs = random_ids(2 * rows, -1, 3 * rows - 1);
        const std::vector<float> scales = random_floats(random_, 3 * rows);
        const DeviceMatrix device_x(x, x_dtype);
        const DeviceVector<int> device_pairs(pairs);
        const DeviceVector<float> device_scales(scales);
        for (const bool is_scaled : {false, true}) {
          TestMatrix expected(2 * rows + 3, columns, gap);
          const DeviceMatrix y(expected, y_dtype);
          gather_rows(cpu(),
                      {x.view(), pairs, 3, is_scaled ? scales.data() : nullptr, expected.view()});
          gather_rows(stream(), {device_x.view(), device_pairs.span(), 3,
                                 is_scaled ? device_scales.data() : nullptr, y.view()});
          // NaN stays where the pair is below 0, and beyond the rows.
          expect_close(y.host(), rounded(expected, y_dtype), 0);
          expect_gaps_untouched(y.host());
        }
      }
    }
  }
}

TEST_F(PermuteCudaTest, CombineGivesTheCpusBits) {
  for (const auto& [num_rows, columns, gap] : kRowShapes) {
    for (const DType x_dtype : kDTypes) {
      for (const int top_k : {1, 6, 8, 11}) {
        const int tokens = num_rows == 0 ? 5 : num_rows / 2;
        const DType y_dtype = top_k % 2 == 0 ? x_dtype : DType::kF32;
        const TestMatrix x = rounded(random_matrix(random_, num_rows, columns, gap), x_dtype);
        const std::vector<int> rows = random_ids(tokens * top_k, -1, num_rows - 1);
        const std::vector<float> weights = random_floats(random_, tokens * top_k);
        const DeviceMatrix device_x(x, x_dtype);
        const DeviceVector<int> device_rows(rows);
        const DeviceVector<float> device_weights(weights);
        const TestMatrix residual = rounded(random_matrix(random_, tokens, columns, gap), y_dtype);
        const DeviceMatrix device_residual(residual, y_dtype);
        for (const bool is_weighted : {false, true}) {
          TestMatrix expected(tokens, columns, gap);
          const DeviceMatrix y(expected, y_dtype);
          CombineRowsParams params = {x.view(), rows, is_weighted ? weights.data() : nullptr, top_k,
                                      expected.view()};
          CombineRowsParams on_device = {device_x.view(), device_rows.span(),
                                         is_weighted ? device_weights.data() : nullptr, top_k,
                                         y.view()};
          if (is_weighted) {
            params.residual = residual.view();
            on_device.residual = device_residual.view();
          }
          combine_rows(cpu(), params);
          combine_rows(stream(), on_device);
          EXPECT_EQ(y.host().bits(), rounded(expected, y_dtype).bits());
          expect_gaps_untouched(y.host());
        }
      }
    }
  }
}

}  // namespace
}  // namespace wideep::kernels
