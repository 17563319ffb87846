// Rows of a batch in the order of the experts they go to, and back.
#pragma once

#include <cstdint>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// Sorts the (token, k) pairs that go to groups [group_begin, group_begin + num_groups) by group,
// stably: by token and k within a group. Pairs of other groups, and ids below 0, are left out.
struct PermutationParams {
  std::span<const int32_t> ids;  // [tokens * top_k]: the group of each pair
  int group_begin = 0;
  int num_groups = 0;
  int* offsets = nullptr;  // [num_groups + 1]: rows of group g are [offsets[g], offsets[g + 1])
  int* rows = nullptr;     // [tokens * top_k]: the row of each pair, -1 where it is left out
  int* pairs = nullptr;    // [tokens * top_k]: the pair of each row, offsets[num_groups] of them
};
void make_permutation(Stream& stream, const PermutationParams& params);

// y[r] = x[pairs[r] / top_k], times scales[pairs[r]] where scales are given (Llama 4 scales an
// expert's input). x [tokens, columns], y [>= num_rows, columns].
struct GatherRowsParams {
  ConstMatrixView x;
  std::span<const int> pairs;  // [num_rows]
  int top_k = 1;
  const float* scales = nullptr;  // [tokens * top_k]
  MatrixView y;
};
void gather_rows(Stream& stream, const GatherRowsParams& params);

// y[t] = sum over k, ascending, of weights[t, k] * x[rows[t, k]]; pairs with row -1 add nothing.
// Null weights are ones. fp32 sums: the order does not depend on where experts are.
struct CombineRowsParams {
  ConstMatrixView x;               // [num_rows, columns]
  std::span<const int> rows;       // [tokens * top_k]
  const float* weights = nullptr;  // [tokens * top_k]
  int top_k = 1;
  MatrixView y;  // [tokens, columns]
};
void combine_rows(Stream& stream, const CombineRowsParams& params);

}  // namespace wideep::kernels
