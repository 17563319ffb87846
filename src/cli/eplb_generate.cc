// wideep eplb generate: loads in, a plan and what it is worth out.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "cli/commands.h"
#include "eplb/eplb.h"

namespace wideep::cli {
namespace {

using eplb::LayerPlanReport;

struct Flags {
  std::string statistics;
  std::vector<std::string> loads;
  std::vector<std::string> scenarios;
  std::string output;
  std::string previous;
  std::string algorithm = "recourse";
  std::string batching = "sequence";
  int layer_updates_per_iter = 0;
  eplb::PlanOptions plan;
  eplb::WorkloadOptions workload;
};

void add_flags(CLI::App& command, Flags& flags) {
  auto* statistics = command.add_option("--expert_statistic_path", flags.statistics,
                                        "Folder of recorded statistics to plan for");
  command
      .add_option(
          "--load", flags.loads,
          "Plan for this instead: statistics folder, .json, .csv, or .npy traces (repeatable)")
      ->excludes(statistics);
  command.add_option("--scenario", flags.scenarios,
                     "A further load that the plan must be good for (repeatable)");
  command.add_option("--output_path", flags.output, "The plan (YAML); beside it .report.json")
      ->required();
  command.add_option("--ep_size", flags.plan.ep_size,
                     "EP ranks to plan for; default: those of the statistics");
  command.add_option("--num_slots", flags.plan.num_slots,
                     "Expert slots of a layer, over all ranks; default: the experts");
  command.add_option("--iter_start", flags.workload.window.start, "First iteration");
  command.add_option("--iter_stop", flags.workload.window.stop, "One past the last iteration");
  command
      .add_option("--layer_updates_per_iter", flags.layer_updates_per_iter,
                  "Written into the plan: 0 static, > 0 online")
      ->check(CLI::NonNegativeNumber);
  command
      .add_option("--algorithm", flags.algorithm,
                  "recourse | balanced | tensorrt_llm | deepseek | cooccurrence")
      ->capture_default_str();
  command.add_option("--nodes", flags.plan.num_nodes, "Balance this many nodes before their ranks");
  command.add_option("--groups", flags.plan.num_groups,
                     "Expert groups (DeepSeek-V3: 8) to keep on one node each");
  command
      .add_option("--alpha", flags.plan.alpha,
                  "cooccurrence: share of a rank that is filled by affinity")
      ->capture_default_str();
  auto* previous = command.add_option("--previous", flags.previous, "Start from this plan");
  command
      .add_option("--max_transfers", flags.plan.max_transfers,
                  "With --previous: slots of a layer that may receive an expert from another rank")
      ->check(CLI::NonNegativeNumber)
      ->needs(previous);
  command
      .add_option("--expert_bytes", flags.plan.expert_bytes,
                  "Weights of one expert of one layer, for the bytes of transfers")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--batching", flags.batching,
                  "Traces: how a rank's tokens are drawn, sequence | mixed")
      ->capture_default_str();
  command
      .add_option("--tokens_per_rank", flags.workload.tokens_per_rank,
                  "Traces: tokens of a rank in a batch")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--seed", flags.plan.seed, "Of the search over recorded batches");
  command.add_option("--threads", flags.plan.threads, "0: all cores; does not change the plan");
}

// EP size and slots that were not given: as TensorRT-LLM's tool, from the statistics.
Status fill_sizes(const std::vector<std::string>& sources, Flags& flags) {
  if (flags.plan.ep_size == 0) {
    ASSIGN_OR_RETURN(const auto format, eplb::load_format(sources.front()));
    if (format != eplb::LoadFormat::kStatistics) {
      return Status::invalid_input("--ep_size: required, because the load does not say");
    }
    ASSIGN_OR_RETURN(
        const auto statistics,
        eplb::read_statistics(eplb::expert_folder(sources.front()), flags.workload.window));
    flags.plan.ep_size = statistics.num_ranks;
  }
  flags.workload.num_ranks = flags.plan.ep_size;
  flags.workload.seed = flags.plan.seed;
  return Status::ok();
}

struct Summary {
  double mean = 0;
  double worst = 0;
  int worst_layer = 0;
};

Summary summarize(const std::vector<LayerPlanReport>& layers, double LayerPlanReport::*value) {
  Summary summary;
  for (const LayerPlanReport& layer : layers) {
    summary.mean += layer.*value / static_cast<double>(layers.size());
    if (layer.*value <= summary.worst) continue;
    summary.worst = layer.*value;
    summary.worst_layer = layer.layer;
  }
  return summary;
}

OrderedJson report_json(const Flags& flags, const eplb::PlanResult& result) {
  OrderedJson layers = OrderedJson::array();
  for (const LayerPlanReport& layer : result.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"max_over_mean", layer.even},
                      {"lower_bound", layer.lower_bound},
                      {"max_over_mean_optimal_split", layer.optimal},
                      {"max_over_mean_recorded_batches", layer.batches},
                      {"duplicates", layer.duplicates},
                      {"components", layer.components},
                      {"transfers", layer.transfers},
                      {"bytes", layer.bytes}});
  }
  const Summary even = summarize(result.layers, &LayerPlanReport::even);
  return {{"algorithm", eplb::algorithm_name(flags.plan.algorithm)},
          {"num_experts", result.plan.num_experts},
          {"num_slots", result.plan.num_slots},
          {"ep_size", flags.plan.ep_size},
          {"nodes", flags.plan.num_nodes},
          {"seed", flags.plan.seed},
          {"mean_max_over_mean", even.mean},
          {"worst_max_over_mean", even.worst},
          {"layers", std::move(layers)}};
}

void print_summary(const Flags& flags, const eplb::PlanResult& result, bool has_batches) {
  const auto print = [&](std::string_view what, double LayerPlanReport::*value) {
    const Summary summary = summarize(result.layers, value);
    fmt::print("  {:<34}{:>9.4f}{:>9.4f}  (layer {})\n", what, summary.mean, summary.worst,
               summary.worst_layer);
  };
  fmt::print("{} layers, {} experts in {} slots on {} ranks, algorithm {}\n\n",
             result.layers.size(), result.plan.num_experts, result.plan.num_slots,
             flags.plan.ep_size, eplb::algorithm_name(flags.plan.algorithm));
  fmt::print("  {:<34}{:>9}{:>9}\n", "fullest rank / mean rank", "mean", "worst");
  print("replicas share evenly", &LayerPlanReport::even);
  print("best split", &LayerPlanReport::optimal);
  if (has_batches) print("best split of recorded batches", &LayerPlanReport::batches);
  print("lower bound (even split)", &LayerPlanReport::lower_bound);
  int duplicates = 0;
  int64_t transfers = 0;
  int64_t bytes = 0;
  double components = 0;
  for (const LayerPlanReport& layer : result.layers) {
    duplicates += layer.duplicates;
    transfers += layer.transfers;
    bytes += layer.bytes;
    components += static_cast<double>(layer.components) / static_cast<double>(result.layers.size());
  }
  fmt::print("\n  components of the rank graph {:.1f} a layer, wasted slots {}\n", components,
             duplicates);
  if (!flags.previous.empty()) {
    fmt::print("  transfers {} ({:.1f} a layer), {:.2f} GB\n", transfers,
               static_cast<double>(transfers) / static_cast<double>(result.layers.size()),
               static_cast<double>(bytes) / 1e9);
  }
  fmt::print("\nplan: {}\nreport: {}.report.json\n", flags.output, flags.output);
}

Status run(Flags flags) {
  if (flags.loads.empty() && flags.statistics.empty()) {
    return Status::invalid_input("--expert_statistic_path or --load: one of them is required");
  }
  const std::vector<std::string> sources =
      flags.loads.empty() ? std::vector{flags.statistics} : flags.loads;
  ASSIGN_OR_RETURN(flags.plan.algorithm, eplb::parse_algorithm(flags.algorithm));
  ASSIGN_OR_RETURN(flags.workload.batching, eplb::parse_batching(flags.batching));
  RETURN_IF_ERROR(fill_sizes(sources, flags));
  flags.workload.with_cooccurrence = flags.plan.algorithm == eplb::Algorithm::kCooccurrence;

  ASSIGN_OR_RETURN(const auto workload, eplb::read_workload(sources, flags.workload));
  std::vector<eplb::Workload> scenarios;
  for (const std::string& path : flags.scenarios) {
    ASSIGN_OR_RETURN(auto scenario, eplb::read_workload({path}, flags.workload));
    scenarios.push_back(std::move(scenario));
  }
  if (flags.plan.num_slots == 0) flags.plan.num_slots = workload.load.num_experts;
  eplb::Plan previous;
  if (!flags.previous.empty()) {
    ASSIGN_OR_RETURN(previous, eplb::read_plan(flags.previous, workload.load.num_experts));
  }

  ProgressBar progress("planning", workload.load.num_layers(), "layers");
  flags.plan.on_layer_done = [&progress] { progress.add(); };
  ASSIGN_OR_RETURN(eplb::PlanResult result,
                   eplb::make_plan(workload, flags.plan, scenarios,
                                   flags.previous.empty() ? nullptr : &previous));
  result.plan.layer_updates_per_iter = flags.layer_updates_per_iter;
  RETURN_IF_ERROR(
      write_file(flags.output + ".report.json", report_json(flags, result).dump(1) + "\n"));
  RETURN_IF_ERROR(eplb::write_plan(flags.output, result.plan));
  print_summary(flags, result, !workload.batches.empty());
  return Status::ok();
}

}  // namespace

void add_eplb_generate(CLI::App& eplb) {
  CLI::App* command = eplb.add_subcommand("generate", "Make a placement from loads");
  const auto flags = std::make_shared<Flags>();
  add_flags(*command, *flags);
  command->callback([flags] { finish(run(*flags)); });
}

}  // namespace wideep::cli
