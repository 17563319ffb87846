// How good a placement is for a load. All ratios are max/mean of the tokens of EP ranks: 1 is
// perfect, and the imbalance ratio of the reports is this minus 1.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eplb/types.h"

namespace wideep::eplb {

// Number of slots of each expert [num_experts].
std::vector<int> count_replicas(const Shape& shape, std::span<const int> slots);

// Tokens of each rank [num_ranks] where the replicas of an expert share evenly (round robin).
std::vector<double> even_rank_tokens(const Shape& shape, std::span<const int> slots,
                                     std::span<const int64_t> tokens);

// 1 for an empty or all-zero list.
double max_over_mean(std::span<const double> values);
double max_over_mean(std::span<const int64_t> values);

// Slots wasted on a second copy of an expert on the same rank.
int count_duplicates(const Shape& shape, std::span<const int> slots);

// Components of the graph of ranks joined by shared experts; 1: every rank can shed load to any
// other.
int count_components(const Shape& shape, std::span<const int> slots);

// A max/mean that no assignment of these slots to these ranks can beat with an even split.
double even_lower_bound(const Shape& shape, std::span<const int64_t> tokens);

// TensorRT-LLM's default: slot j of rank r holds expert (r * E / R + j) mod E.
std::vector<int> default_assignment(const Shape& shape);

}  // namespace wideep::eplb
