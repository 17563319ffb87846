#include <algorithm>
#include <vector>

#include "base/check.h"
#include "kernels/cuda_ops.h"
#include "kernels/parallel.h"
#include "kernels/permute.h"

namespace wideep::kernels {
namespace {

int round_up(int count, int multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

}  // namespace

// A counting sort: O(pairs + groups).
void make_permutation(Stream& stream, const PermutationParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::make_permutation(stream, params);
  }
  CHECK(params.row_alignment >= 1);
  const int num_groups = params.num_groups;
  const auto num_pairs = static_cast<int64_t>(params.ids.size());
  const int64_t max_rows = params.group_rows > 0
                               ? int64_t{num_groups} * params.group_rows
                               : max_permuted_rows(num_pairs, num_groups, params.row_alignment);
  std::fill_n(params.pairs, max_rows, -1);
  if (params.group_of_row != nullptr) std::fill_n(params.group_of_row, max_rows, -1);
  const auto group_of = [&](int32_t id) {
    const int group = id - params.group_begin;
    return id >= 0 && group >= 0 && group < num_groups ? group : -1;
  };
  std::vector<int> counts(static_cast<size_t>(num_groups));
  for (const int32_t id : params.ids) {
    if (group_of(id) >= 0) ++counts[group_of(id)];
  }
  if (params.counts != nullptr) std::ranges::copy(counts, params.counts);
  int* offsets = params.offsets;
  offsets[0] = 0;
  for (int g = 0; g < num_groups; ++g) {
    CHECK(params.group_rows == 0 || counts[g] <= params.group_rows);
    offsets[g + 1] =
        offsets[g] +
        (params.group_rows > 0 ? params.group_rows : round_up(counts[g], params.row_alignment));
  }
  std::vector<int>& next = counts;
  std::copy_n(offsets, num_groups, next.begin());
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    const int group = group_of(params.ids[pair]);
    const int row = group >= 0 ? next[group]++ : -1;
    params.rows[pair] = row;
    if (row < 0) continue;
    params.pairs[row] = static_cast<int>(pair);
    if (params.group_of_row != nullptr) params.group_of_row[row] = group;
  }
}

void gather_rows(Stream& stream, const GatherRowsParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::gather_rows(stream, params);
  }
  const ConstMatrixView& x = params.x;
  const MatrixView& y = params.y;
  const auto num_rows = static_cast<int64_t>(params.pairs.size());
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32 && params.top_k >= 1);
  CHECK(x.columns == y.columns && num_rows <= y.rows);
  parallel_ranges(stream, num_rows, 0.4 * static_cast<double>(x.columns),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t r = begin; r < end; ++r) {
                      const int pair = params.pairs[r];
                      if (pair < 0) continue;
                      CHECK_LT(pair / params.top_k, x.rows);
                      const auto* from = x.row<float>(pair / params.top_k);
                      auto* to = y.row<float>(r);
                      if (params.scales == nullptr) {
                        std::copy_n(from, x.columns, to);
                      } else {
                        const float scale = params.scales[pair];
                        for (int64_t i = 0; i < x.columns; ++i) to[i] = from[i] * scale;
                      }
                    }
                  });
}

void combine_rows(Stream& stream, const CombineRowsParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::combine_rows(stream, params);
  }
  const ConstMatrixView& x = params.x;
  const MatrixView& y = params.y;
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32 && params.top_k >= 1);
  CHECK(x.columns == y.columns);
  CHECK(y.rows * params.top_k == static_cast<int64_t>(params.rows.size()));
  CHECK(params.residual.data == nullptr || params.residual.dtype == y.dtype);
  const double nanoseconds = 0.3 * static_cast<double>(y.columns) * params.top_k;
  parallel_ranges(stream, y.rows, nanoseconds, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      auto* to = y.row<float>(t);
      std::fill(to, to + y.columns, 0.0F);
      for (int64_t pair = t * params.top_k; pair < (t + 1) * params.top_k; ++pair) {
        const int row = params.rows[pair];
        if (row < 0) continue;
        CHECK_LT(row, x.rows);
        const auto* from = x.row<float>(row);
        const float weight = params.weights != nullptr ? params.weights[pair] : 1.0F;
        for (int64_t i = 0; i < y.columns; ++i) to[i] += weight * from[i];
      }
      if (params.residual.data == nullptr) continue;
      const auto* residual = params.residual.row<float>(t);
      for (int64_t i = 0; i < y.columns; ++i) to[i] += residual[i];
    }
  });
}

}  // namespace wideep::kernels
