// Flags and output that the report commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "eplb/plan_file.h"
#include "eplb/projection.h"
#include "eplb/statistics.h"
#include "eplb/trace.h"

namespace wideep::cli {

struct ReportFlags {
  std::string statistics;        // --expert_statistic_path
  eplb::IterationWindow window;  // --iter_start, --iter_stop
  std::string plan;              // --projection_eplb_config_path
  int ep_size = 0;               // --ep_size; 0: not given
  std::string json;              // --json
};

void add_report_flags(CLI::App& command, ReportFlags& flags);

// The plan to project; nullopt without --projection_eplb_config_path.
Result<std::optional<eplb::Plan>> read_projection(const ReportFlags& flags);

// --ep_size, or the ranks of the source. Says so on standard error where a plan is projected on
// ranks that nobody named: its file does not tell for how many it was made.
Result<int> choose_ep_size(const ReportFlags& flags, int source_ranks);

// Routed ids, token by token: --trace, or the raw files of a statistics folder.
struct RoutedFlags {
  ReportFlags report;
  std::vector<std::string> traces;  // --trace
  int num_experts = 0;              // --num_experts, of the traces; 0: not given
  int first_layer = 0;              // --first_layer, of the traces
};

void add_routed_flags(CLI::App& command, RoutedFlags& flags);

// Exactly one source, and no flag that could not act on it.
Status check_routed_flags(const RoutedFlags& flags);

// The traces, of as many experts as the plan has where --num_experts does not say.
Result<eplb::Trace> open_traces(const RoutedFlags& flags, const std::optional<eplb::Plan>& plan);

// Where the experts of each layer are: as the plan says, or in contiguous blocks.
Result<eplb::Placement> choose_placement(const std::optional<eplb::Plan>& plan, int num_experts,
                                         const std::vector<int>& layers, int ep_size);

// Layer ids and "average", the labels of every table.
std::vector<std::string> row_labels(const std::vector<int>& layers);

// Replaces the file at `path`; does nothing for "".
Status write_report_json(const std::string& path, const OrderedJson& json);

}  // namespace wideep::cli
