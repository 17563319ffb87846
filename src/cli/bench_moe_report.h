// What `wideep bench moe` says: a table for each number of tokens, and JSON.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "models/moe_bench.h"

namespace wideep::cli {

// One way to run the layers, for one number of tokens.
struct MoeBenchRow {
  std::string name;            // "plan, quota"
  std::string backend;         // "CUTLASS", "WideEP"
  std::string placement;       // "in_order", "plan", "online"
  std::string replica_choice;  // "" without replicas
  int num_slots = 0;
  bool is_balanced = false;  // perfectly balanced routing in place of the skew
  int tokens = 0;            // of a rank
  models::MoeBenchResult result;
  // Largest difference of a rank's output to the first row's, root mean square over root mean
  // square; none where the routing is another.
  std::optional<double> difference;
};

// The time of a row's layer, the median over its calls, over that of the row which differs from it
// as `reference` says. None where there is no such row.
enum class MoeReference {
  kBalanced,  // the same backend with one slot an expert and perfectly balanced routing
  kInOrder,   // backend WideEP with one slot an expert
};
std::optional<double> times_reference(const MoeBenchRow& row, std::span<const MoeBenchRow> rows,
                                      MoeReference reference);

std::string moe_bench_text(std::span<const MoeBenchRow> rows);
OrderedJson moe_bench_json(std::span<const MoeBenchRow> rows);

}  // namespace wideep::cli
