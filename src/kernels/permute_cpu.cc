#include <algorithm>

#include "base/check.h"
#include "kernels/parallel.h"
#include "kernels/permute.h"

namespace wideep::kernels {

// A counting sort: O(pairs + groups).
void make_permutation(Stream&, const PermutationParams& params) {
  int* offsets = params.offsets;
  std::fill(offsets, offsets + params.num_groups + 1, 0);
  const auto group_of = [&](int32_t id) {
    const int group = id - params.group_begin;
    return id >= 0 && group >= 0 && group < params.num_groups ? group : -1;
  };
  for (const int32_t id : params.ids) {
    const int group = group_of(id);
    if (group >= 0) ++offsets[group + 1];
  }
  for (int g = 0; g < params.num_groups; ++g) offsets[g + 1] += offsets[g];
  // offsets[g] counts up to the end of group g, which is the begin of the next, and is moved back.
  for (size_t pair = 0; pair < params.ids.size(); ++pair) {
    const int group = group_of(params.ids[pair]);
    params.rows[pair] = group >= 0 ? offsets[group]++ : -1;
    if (group >= 0) params.pairs[params.rows[pair]] = static_cast<int>(pair);
  }
  for (int g = params.num_groups; g > 0; --g) offsets[g] = offsets[g - 1];
  offsets[0] = 0;
}

void gather_rows(Stream& stream, const GatherRowsParams& params) {
  const ConstMatrixView& x = params.x;
  const MatrixView& y = params.y;
  const auto num_rows = static_cast<int64_t>(params.pairs.size());
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32 && params.top_k >= 1);
  CHECK(x.columns == y.columns && num_rows <= y.rows);
  parallel_ranges(stream, num_rows, 0.4 * static_cast<double>(x.columns),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t r = begin; r < end; ++r) {
                      const int pair = params.pairs[r];
                      CHECK(pair >= 0 && pair / params.top_k < x.rows);
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
  const ConstMatrixView& x = params.x;
  const MatrixView& y = params.y;
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32 && params.top_k >= 1);
  CHECK(x.columns == y.columns);
  CHECK(y.rows * params.top_k == static_cast<int64_t>(params.rows.size()));
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
    }
  });
}

}  // namespace wideep::kernels
