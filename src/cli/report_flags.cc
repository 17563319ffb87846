#include "cli/report_flags.h"

#include <fmt/format.h>

#include "base/file.h"

namespace wideep::cli {

void add_report_flags(CLI::App& command, ReportFlags& flags) {
  command.add_option("--expert_statistic_path", flags.statistics,
                     "Folder with meta_info.json and the rank files");
  command.add_option("--iter_start", flags.window.start, "First iteration (default: the first)")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--iter_stop", flags.window.stop, "One past the last (default: all)")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--projection_eplb_config_path", flags.plan,
                     "Plan (moe_load_balancer.yaml) to project the recorded tokens on");
  command
      .add_option("--ep_size", flags.ep_size,
                  "Ranks of the plan, or of the view without one (default: the recorded ranks)")
      ->check(CLI::PositiveNumber);
  command.add_option("--json", flags.json, "Write the numbers to this file");
}

Result<std::optional<eplb::Plan>> read_projection(const ReportFlags& flags) {
  if (flags.plan.empty()) return std::optional<eplb::Plan>();
  ASSIGN_OR_RETURN(eplb::Plan plan, eplb::read_plan(flags.plan));
  return std::optional<eplb::Plan>(std::move(plan));
}

Result<int> choose_ep_size(const ReportFlags& flags, int source_ranks) {
  if (flags.ep_size > 0) return flags.ep_size;
  if (source_ranks <= 0) {
    return Status::invalid_input("--ep_size: missing; this source does not tell its EP size");
  }
  if (!flags.plan.empty()) {
    fmt::print(stderr,
               "{}: projected on {} ranks, those of the statistics; --ep_size gives the plan's\n",
               flags.plan, source_ranks);
  }
  return source_ranks;
}

void add_routed_flags(CLI::App& command, RoutedFlags& flags) {
  add_report_flags(command, flags.report);
  command.add_option("--trace", flags.traces,
                     "npy trace [tokens, layers, top_k] instead of statistics; may be repeated");
  command
      .add_option("--num_experts", flags.num_experts,
                  "Experts of the traces (default: the plan's, or the largest id + 1)")
      ->check(CLI::PositiveNumber);
  command
      .add_option("--first_layer", flags.first_layer,
                  "Decoder layer of the traces' first row (default: 0)")
      ->check(CLI::NonNegativeNumber);
}

Status check_routed_flags(const RoutedFlags& flags) {
  const bool has_window = flags.report.window.start >= 0 || flags.report.window.stop >= 0;
  if (flags.traces.empty() == flags.report.statistics.empty()) {
    return Status::invalid_input(
        "--expert_statistic_path, --trace: exactly one of the two must be given");
  }
  if (!flags.traces.empty() && has_window) {
    return Status::invalid_input(
        "--iter_start, --iter_stop: cannot act on a trace, which has no iterations");
  }
  if (flags.traces.empty() && (flags.num_experts > 0 || flags.first_layer > 0)) {
    return Status::invalid_input(
        "--num_experts, --first_layer: are for --trace; statistics know both");
  }
  return Status::ok();
}

Result<eplb::Trace> open_traces(const RoutedFlags& flags, const std::optional<eplb::Plan>& plan) {
  const int num_experts = flags.num_experts > 0 || !plan ? flags.num_experts : plan->num_experts;
  return eplb::Trace::open(flags.traces, num_experts, flags.first_layer);
}

Result<eplb::Placement> choose_placement(const std::optional<eplb::Plan>& plan, int num_experts,
                                         const std::vector<int>& layers, int ep_size) {
  return plan ? eplb::plan_placement(*plan, num_experts, layers, ep_size)
              : eplb::contiguous_placement(num_experts, layers, ep_size);
}

std::vector<std::string> row_labels(const std::vector<int>& layers) {
  std::vector<std::string> labels;
  labels.reserve(layers.size() + 1);
  for (const int layer : layers) labels.push_back(std::to_string(layer));
  labels.emplace_back("average");
  return labels;
}

Status write_report_json(const std::string& path, const OrderedJson& json) {
  if (path.empty()) return Status::ok();
  // A path on the command line may hold bytes that are not UTF-8.
  return write_file(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n');
}

}  // namespace wideep::cli
