#include "alltoall/row_sums.h"

#include <algorithm>

namespace wideep::alltoall {
namespace {

// Columns summed at a time, so that partial sums stay in the first-level cache.
constexpr size_t kBlock = 512;

}  // namespace

void sum_rows(std::span<const WeightedRow> rows, std::span<float> to) {
  std::ranges::fill(to, 0.0F);
  for (const WeightedRow& each : rows) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += each.weight * each.row[i];
  }
}

void sum_rows_by_rank(std::span<const WeightedRow> rows, std::span<float> to) {
  float part[kBlock];
  for (size_t begin = 0; begin < to.size(); begin += kBlock) {
    const size_t count = std::min(kBlock, to.size() - begin);
    std::fill_n(to.data() + begin, count, 0.0F);
    for (int rank = -1;;) {
      // The next rank that has a row.
      int next = INT32_MAX;
      for (const WeightedRow& each : rows) {
        if (each.rank > rank) next = std::min(next, each.rank);
      }
      if (next == INT32_MAX) break;
      rank = next;
      std::fill_n(part, count, 0.0F);
      for (const WeightedRow& each : rows) {
        if (each.rank != rank) continue;
        for (size_t i = 0; i < count; ++i) part[i] += each.weight * each.row[begin + i];
      }
      for (size_t i = 0; i < count; ++i) to[begin + i] += part[i];
    }
  }
}

}  // namespace wideep::alltoall
