// Which experts are chosen together. A token that is routed to experts i and j costs one message
// less where both are on the same rank, so pairs that are often chosen together belong together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "eplb/statistics.h"
#include "eplb/trace.h"
#include "eplb/types.h"

namespace wideep::eplb {

// As matrices of each layer they are a Cooccurrence (eplb/statistics.h), which can also be read
// from the files that some recorders write.

// [num_experts, num_experts]: ordered pairs of different experts that one token was routed to, over
// all tokens of `experts` ([num_tokens, top_k] ids; -1: not routed). Symmetric, diagonal 0, and a
// token with k experts adds k (k - 1). kInvalidInput for an id >= num_experts.
// O(num_tokens top_k^2).
Result<std::vector<int64_t>> cooccurrence_matrix(std::span<const int32_t> experts, int top_k,
                                                 int num_experts);

// The same of one layer's records: every rank and iteration that `records` holds of `layer`.
Result<std::vector<int64_t>> cooccurrence_matrix(const std::vector<RawIds>& records, int layer,
                                                 int num_experts);

// The same of a trace: [trace.num_experts(), trace.num_experts()] of one row of trace.layers().
std::vector<int64_t> cooccurrence_matrix(const Trace& trace, int layer_index);

// The matrices of every layer, on all cores.
Result<Cooccurrence> total_cooccurrence(const std::vector<RawIds>& records, int num_experts);
Cooccurrence total_cooccurrence(const Trace& trace);

// Layers of `records`, ascending.
std::vector<int> layers_of(const std::vector<RawIds>& records);

// Pairs of one layer, by where a placement puts their two experts.
struct CooccurrenceRow {
  int layer = 0;
  double within_rank = 0;   // pairs whose two experts are on the same rank
  double between_rank = 0;  // pairs on two ranks
  double total = 0;         // all pairs: within_rank + between_rank
  double within_ratio = 0;  // within_rank / total; 0 where there is no pair
};

// matrix: [num_experts, num_experts]; the diagonal is not looked at. slots: [num_slots] expert of
// each slot. Replicas take an even and independent share: a pair (i, j) counts 1 / (n_i n_j) for
// each pair of their slots, n being the number of replicas. O(num_slots slots_per_rank +
// num_experts^2).
CooccurrenceRow cooccurrence_row(int layer, std::span<const int64_t> matrix, const Shape& shape,
                                 std::span<const int> slots);

// Each column's unweighted mean over the rows; layer is -1. Zeros for no row.
CooccurrenceRow average_row(std::span<const CooccurrenceRow> rows);

}  // namespace wideep::eplb
