// wideep eplb evaluate: how good a plan is for a load.
#include <fmt/format.h>

#include <memory>

#include "base/file.h"
#include "base/json.h"
#include "cli/commands.h"
#include "eplb/eplb.h"

namespace wideep::cli {
namespace {

using eplb::LayerQuality;
using eplb::PlanQuality;

struct Flags {
  std::string load;
  std::string plan;
  std::string json;
  eplb::QualityOptions quality;
  int top_k = 0;
};

// The ranks that a plan was made for: its report beside it, or the statistics' own.
Result<int> find_ep_size(const Flags& flags) {
  if (flags.quality.ep_size > 0) return flags.quality.ep_size;
  const std::string report = flags.plan + ".report.json";
  if (path_exists(report)) {
    ASSIGN_OR_RETURN(const Json json, read_json(report));
    const auto found = json.find("ep_size");
    if (found != json.end() && found->is_number_integer()) return found->get<int>();
  }
  return Status::invalid_input(
      fmt::format("--ep_size: required, because there is no {} that names it", report));
}

OrderedJson quality_json(const Flags& flags, const PlanQuality& quality) {
  OrderedJson layers = OrderedJson::array();
  for (const LayerQuality& layer : quality.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"even", layer.even},
                      {"optimal", layer.optimal},
                      {"lower_bound", layer.lower_bound},
                      {"duplicates", layer.duplicates},
                      {"components", layer.components}});
  }
  return {{"load", flags.load},
          {"plan", flags.plan},
          {"ep_size", flags.quality.ep_size},
          {"tokens_per_rank", flags.quality.tokens_per_rank},
          {"mean_even", quality.mean_even},
          {"worst_even", quality.worst_even},
          {"mean_optimal", quality.mean_optimal},
          {"worst_optimal", quality.worst_optimal},
          {"layers", std::move(layers)}};
}

void print_quality(const PlanQuality& quality) {
  fmt::print("{:<9}{:>10}{:>10}{:>13}{:>12}{:>12}\n", "layer", "even", "optimal", "lower bound",
             "duplicates", "components");
  double bound = 0;
  double duplicates = 0;
  double components = 0;
  const auto count = static_cast<double>(quality.layers.size());
  for (const LayerQuality& layer : quality.layers) {
    fmt::print("{:<9}{:>10.4f}{:>10.4f}{:>13.4f}{:>12}{:>12}\n", layer.layer, layer.even,
               layer.optimal, layer.lower_bound, layer.duplicates, layer.components);
    bound += layer.lower_bound / count;
    duplicates += layer.duplicates / count;
    components += layer.components / count;
  }
  fmt::print("{:<9}{:>10.4f}{:>10.4f}{:>13.4f}{:>12.2f}{:>12.2f}\n", "average", quality.mean_even,
             quality.mean_optimal, bound, duplicates, components);
  fmt::print("{:<9}{:>10.4f}{:>10.4f}\n", "worst", quality.worst_even, quality.worst_optimal);
}

Status run(Flags flags) {
  ASSIGN_OR_RETURN(const eplb::Load load, eplb::read_load(flags.load));
  ASSIGN_OR_RETURN(const eplb::Plan plan, eplb::read_plan(flags.plan, load.num_experts));
  ASSIGN_OR_RETURN(flags.quality.ep_size, find_ep_size(flags));
  if (flags.top_k > 0) {
    flags.quality.top_k = flags.top_k;
  } else if (load.top_k > 0) {
    flags.quality.top_k = load.top_k;
  }
  ASSIGN_OR_RETURN(const PlanQuality quality, eplb::evaluate_plan(load, plan, flags.quality));
  if (!flags.json.empty()) {
    RETURN_IF_ERROR(write_file(flags.json, quality_json(flags, quality).dump(1) + "\n"));
  }
  print_quality(quality);
  return Status::ok();
}

}  // namespace

void add_eplb_evaluate(CLI::App& eplb) {
  CLI::App* command =
      eplb.add_subcommand("evaluate", "Fullest over mean rank of a plan, for a load");
  const auto flags = std::make_shared<Flags>();
  command->add_option("--load", flags->load, "Statistics folder, .json, .csv or .npy")->required();
  command->add_option("--plan", flags->plan, "The plan (YAML)")->required();
  command->add_option("--ep_size", flags->quality.ep_size,
                      "EP ranks; default: what the plan's .report.json says");
  command
      ->add_option("--tokens_per_rank", flags->quality.tokens_per_rank,
                   "Average over sampled batches of this size instead of the load itself")
      ->check(CLI::PositiveNumber);
  command->add_option("--top_k", flags->top_k, "Experts a token; default: the load's own, else 8")
      ->check(CLI::PositiveNumber);
  command->add_option("--seed", flags->quality.seed, "Of the batches");
  command->add_option("--json", flags->json, "Write the numbers to this file");
  command->callback([flags] { finish(run(*flags)); });
}

}  // namespace wideep::cli
