// The published algorithms of other systems, reproduced slot for slot: baselines to compare with,
// and for users who need the very same plan. None of them forbids two copies of an expert on one
// rank, looks at the previous plan, or knows what a batch can still balance.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eplb/types.h"

namespace wideep::eplb {

// Copies of each expert by TensorRT-LLM's replication (moeLoadBalancer.cpp, doReplication): every
// spare slot to the expert with the most tokens a copy, ties to the larger id, in double over float
// loads; with no tokens at all the slots are dealt evenly. [num_experts], O(num_slots log
// num_experts).
std::vector<int> tensorrt_llm_replicas(const Shape& shape, std::span<const int64_t> tokens);

// TensorRT-LLM's plan (doReplication and doPlacement): copies from the largest on, each to the
// lightest rank with a free slot. [num_slots].
std::vector<int> tensorrt_llm_plan(const Shape& shape, std::span<const int64_t> tokens);

struct DeepSeekOptions {
  int num_groups = 1;  // expert groups, divides num_experts
  int num_nodes = 1;   // divides num_ranks; hierarchical if it divides num_groups, else global
};

// DeepSeek's EPLB (eplb.py, rebalance_experts): groups to nodes, replicas within a node, replicas
// to ranks, all in float32 as there. [num_slots].
std::vector<int> deepseek_plan(const Shape& shape, std::span<const int64_t> tokens,
                               const DeepSeekOptions& options);

// TensorRT-LLM's co-occurrence variant (generate_eplb_config_cooccurrence): replicas as above; then
// rank by rank the expert that occurs most with those already there, until the share alpha of the
// rank's slots or load is used; the rest hottest first to the lightest rank. cooccurrence:
// [num_experts, num_experts].
std::vector<int> cooccurrence_plan(const Shape& shape, std::span<const int64_t> tokens,
                                   std::span<const int64_t> cooccurrence, double alpha);

}  // namespace wideep::eplb
