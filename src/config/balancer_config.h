// The load balancer's section: `moe_config.load_balancer`, `moe_load_balancer`, or a file of its
// own (TensorRT-LLM's moe_load_balancer.yaml, which is also how wideep writes plans). Keys that
// TensorRT-LLM does not have are written only where they differ from their default.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace wideep {

// Which replica of its expert takes a token (eplb/replica_choice.h).
enum class ReplicaChoice {
  kRoundRobin,  // each in turn
  kQuota,       // fixed shares, from the load that the plan was made for
  kPerBatch,    // the shares that balance this batch best
};

// How the top_k expert outputs of a token are summed.
enum class CombineMode {
  kReduced,  // on each rank first, then over ranks: fewest bytes
  kExact,    // on the token's rank in the order of its choices: the same bits for any placement
};

// Where a slot gets the weights of an expert that it did not hold.
enum class WeightSource {
  kPeer,  // from a rank that holds the expert
  kHost,  // from the node's copy of all experts, in shared memory
};

// How plans are made (eplb/planner.h).
enum class Algorithm {
  kRecourse,      // balanced, and replicas placed so that every batch can be balanced
  kBalanced,      // balanced for the even split only
  kTensorRtLlm,   // baseline: TensorRT-LLM's published greedy
  kDeepSeek,      // baseline: DeepSeek's EPLB, hierarchical where nodes divide groups
  kCooccurrence,  // TensorRT-LLM's co-occurrence variant: fewer destination ranks a token
};

// The configuration's words: "per_batch". parse_* ignore ASCII case; kInvalidInput names the
// nearest word.
std::string_view replica_choice_name(ReplicaChoice choice);
std::string_view combine_mode_name(CombineMode mode);
std::string_view weight_source_name(WeightSource source);
std::string_view algorithm_name(Algorithm algorithm);
Result<ReplicaChoice> parse_replica_choice(std::string_view name);
Result<CombineMode> parse_combine_mode(std::string_view name);
Result<WeightSource> parse_weight_source(std::string_view name);
Result<Algorithm> parse_algorithm(std::string_view name);

struct BalancerConfig {
  std::optional<int> num_slots = std::nullopt;  // of a layer over all EP ranks; required before use
  int layer_updates_per_iter = 0;  // 0: static plan; > 0: layers that may change an iteration
  // Decoder layer -> expert of each slot [num_slots]; empty: the default assignment.
  std::map<int, std::vector<int>> initial_global_assignments = {};

  ReplicaChoice replica_choice = ReplicaChoice::kPerBatch;
  CombineMode combine = CombineMode::kReduced;

  // Of the online balancer alone; given with layer_updates_per_iter 0 they are refused.
  double decay = 0.95;  // of a layer's load, each iteration; 0: the last alone, 1: a plain sum
  // Experts that a rank receives in an iteration, over all layers. 8 of DeepSeek-V3's (44 MB each)
  // are 1 ms of an NVLink direction and 352 MB of staging.
  int max_transfers_per_iter = 8;
  double min_gain = 0.01;  // of a change of plan: fall of max/mean of rank loads
  WeightSource weight_source = WeightSource::kPeer;
  Algorithm algorithm = Algorithm::kRecourse;  // kRecourse or kBalanced: plans made from plans
};

// Parses the file; all violations in one status, a line each. What needs the model or the parallel
// sizes (slots >= experts, slots % ep_size, every expert placed) is checked in check_engine_config.
Result<BalancerConfig> read_balancer_config(const std::string& path);
// The same from memory; `name` stands for the file in messages.
Result<BalancerConfig> parse_balancer_config(std::string_view yaml, const std::string& name);

// The YAML text that TensorRT-LLM and read_balancer_config read: integer layer keys, inline lists.
// A key that TensorRT-LLM lacks is there only where its value is not the default.
std::string balancer_config_yaml(const BalancerConfig& config);

}  // namespace wideep
