// The sums of combine(), one token at a time, in the orders that alltoall.h promises. Internal to
// alltoall.
#pragma once

#include <cstdint>
#include <span>

namespace wideep::alltoall {

// A row of a token: what it is multiplied by, and the rank that it comes from.
struct WeightedRow {
  const float* row = nullptr;
  float weight = 1;
  int rank = 0;
};

// to = the sum of weight x row, in the order of `rows`. The bits of kernels::combine_rows.
void sum_rows(std::span<const WeightedRow> rows, std::span<float> to);

// The same where the rows of each rank are summed first, and the sums in the order of the ranks.
void sum_rows_by_rank(std::span<const WeightedRow> rows, std::span<float> to);

}  // namespace wideep::alltoall
