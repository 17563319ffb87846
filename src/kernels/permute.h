// Rows of a batch in the order of the experts they go to, and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// On a CUDA stream.
inline constexpr int kMaxPermutationGroups = 1024;

// Sorts the (token, k) pairs that go to groups [group_begin, group_begin + num_groups) by group,
// stably: by token and k within a group. Pairs of other groups, and ids below 0, are left out. The
// rows of every group begin at a multiple of row_alignment; the rows between the last of a group
// and the next multiple are padding: what they hold is nobody's.
struct PermutationParams {
  std::span<const int32_t> ids;  // [tokens * top_k]: the group of each pair
  int group_begin = 0;
  int num_groups = 0;
  int* offsets = nullptr;  // [num_groups + 1]: rows of group g are [offsets[g], offsets[g + 1])
  int* rows = nullptr;     // [tokens * top_k]: the row of each pair, -1 where it is left out
  // [max_permuted_rows(), or as group_rows says]: the pair of each row; -1 for padding, and from
  // offsets[num_groups] on.
  int* pairs = nullptr;
  int row_alignment = 1;
  int* group_of_row = nullptr;  // like pairs: the group less group_begin; or null
  // Above 0: room for so many rows in every group, whatever it has: those of group g begin at g *
  // group_rows, and no group may have more. There are num_groups * group_rows rows then.
  int group_rows = 0;
  int* counts = nullptr;  // [num_groups] pairs of each group; or null
};
void make_permutation(Stream& stream, const PermutationParams& params);

// The rows that this many pairs have at most, padding included: how a caller that does not know
// where the pairs go plans its buffers.
inline int64_t max_permuted_rows(int64_t num_pairs, int num_groups, int row_alignment) {
  const int64_t groups = std::min<int64_t>(num_pairs, num_groups);
  const int64_t rows = num_pairs + groups * (row_alignment - 1);
  return rows / row_alignment * row_alignment;
}

// y[r] = x[pairs[r] / top_k], times scales[pairs[r]] where scales are given (Llama 4 scales an
// expert's input). Rows of y whose pair is below 0 are left as they are, so that a caller who does
// not know how many rows there are gives all that there can be. x [tokens, columns], y [>=
// num_rows, columns].
struct GatherRowsParams {
  ConstMatrixView x;
  std::span<const int> pairs;  // [num_rows]
  int top_k = 1;
  const float* scales = nullptr;  // [tokens * top_k]
  MatrixView y;
};
void gather_rows(Stream& stream, const GatherRowsParams& params);

// y[r] = x[rows[r]], but for rows below 0. y [>= rows.size(), columns].
inline void pick_rows(Stream& stream, ConstMatrixView x, std::span<const int> rows, MatrixView y) {
  gather_rows(stream, {x, rows, 1, nullptr, y});
}

// y[t] = sum over k, ascending, of weights[t, k] * x[rows[t, k]]; pairs with row -1 add nothing.
// Null weights are ones. Products and sums are rounded to fp32 one by one: the order does not
// depend on where experts are, and the bits not on the device.
struct CombineRowsParams {
  ConstMatrixView x;               // [num_rows, columns]
  std::span<const int> rows;       // [tokens * top_k]
  const float* weights = nullptr;  // [tokens * top_k]
  int top_k = 1;
  MatrixView y;                   // [tokens, columns]
  ConstMatrixView residual = {};  // [tokens, columns], added to the sum, of y's type; null: none
};
void combine_rows(Stream& stream, const CombineRowsParams& params);

}  // namespace wideep::kernels
