// wideep eplb replay: a placement over many iterations, against no balancing on the same batches.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/text.h"
#include "cli/commands.h"
#include "eplb/evaluate.h"
#include "eplb/plan_file.h"
#include "eplb/replay.h"

namespace wideep::cli {
namespace {

using eplb::BatchSource;
using eplb::Plan;
using eplb::ReplayResult;

struct Flags {
  std::vector<std::string> loads;
  std::vector<std::string> shifts;
  std::string plan;
  std::string replica_choice = "round_robin";
  std::string batching = "mixed";
  std::string algorithm = "recourse";
  std::string profile = "h200";
  std::string json;
  int ep_size = 0;
  int num_slots = 0;
  int iterations = 100;
  int layer_updates_per_iter = -1;
  int max_transfers = 16;
  int threads = 0;
  int64_t tokens_per_rank = 0;
  uint64_t seed = 0;
  bool online = false;
  eplb::OnlineOptions balancer;
  eplb::MoeModel model;
  eplb::IterationWindow window;

  Flags() { model.top_k = 0; }  // the load's
};

// The batches from one iteration on.
struct Phase {
  BatchSource source;
  int64_t first_iteration = 0;
};

// "F@100" or "F,G@100": paths and the iteration from which they are replayed.
Result<std::pair<std::vector<std::string>, int64_t>> parse_shift(const std::string& text) {
  const size_t at = text.rfind('@');
  const auto iteration =
      at == std::string::npos ? std::nullopt : parse_int(std::string_view(text).substr(at + 1));
  if (!iteration || *iteration < 1 || at == 0) {
    return Status::invalid_input(
        fmt::format("--shift {}: must be PATH[,PATH...]@ITERATION with an iteration >= 1", text));
  }
  std::vector<std::string> paths;
  for (const auto path : split(std::string_view(text).substr(0, at), ',')) paths.emplace_back(path);
  return std::pair(std::move(paths), *iteration);
}

Result<std::vector<Phase>> open_phases(const Flags& flags, int num_experts) {
  eplb::BatchOptions options = {.num_ranks = flags.ep_size,
                                .tokens_per_rank = flags.tokens_per_rank,
                                .top_k = flags.model.top_k,
                                .num_experts = num_experts,
                                .seed = flags.seed,
                                .window = flags.window};
  ASSIGN_OR_RETURN(options.batching, eplb::parse_batching(flags.batching));
  std::vector<Phase> phases;
  ASSIGN_OR_RETURN(BatchSource first, BatchSource::open(flags.loads, options));
  // Later phases must be of the same model.
  options.num_experts = first.num_experts();
  phases.push_back({std::move(first), 0});
  for (const std::string& text : flags.shifts) {
    ASSIGN_OR_RETURN(const auto shift, parse_shift(text));
    if (shift.second <= phases.back().first_iteration) {
      return Status::invalid_input(
          fmt::format("--shift {}: iterations of shifts must ascend", text));
    }
    ASSIGN_OR_RETURN(BatchSource source, BatchSource::open(shift.first, options));
    phases.push_back({std::move(source), shift.second});
  }
  return phases;
}

// TensorRT-LLM's assignment where no plan is given.
Result<Plan> default_plan(const Flags& flags, const BatchSource& source) {
  Plan plan;
  plan.num_experts = source.num_experts();
  plan.num_slots = flags.num_slots > 0 ? flags.num_slots : plan.num_experts;
  plan.layers = source.layers();
  if (flags.ep_size < 1 || plan.num_slots % flags.ep_size != 0 ||
      plan.num_slots < plan.num_experts) {
    return Status::invalid_input(
        fmt::format("--num_slots {}: must be a multiple of --ep_size {} and at least the {} "
                    "experts",
                    plan.num_slots, flags.ep_size, plan.num_experts));
  }
  const auto row = eplb::default_assignment(plan.shape(flags.ep_size));
  for (int l = 0; l < plan.num_layers(); ++l) {
    plan.slots.insert(plan.slots.end(), row.begin(), row.end());
  }
  return plan;
}

struct Setup {
  Plan plan;
  std::vector<Phase> phases;
  eplb::ReplayOptions options;
};

Status set_online(const Flags& flags, Setup& setup) {
  eplb::ReplayOptions& options = setup.options;
  options.online = flags.online;
  if (flags.layer_updates_per_iter >= 0) {
    setup.plan.layer_updates_per_iter = flags.layer_updates_per_iter;
  }
  if (flags.online && setup.plan.layer_updates_per_iter < 1) {
    return Status::invalid_input(
        "--online: needs --layer_updates_per_iter U >= 1, because the plan is static");
  }
  options.balancer = flags.balancer;
  ASSIGN_OR_RETURN(options.balancer.plan.algorithm, eplb::parse_algorithm(flags.algorithm));
  options.balancer.plan.max_transfers = flags.max_transfers;
  options.balancer.plan.expert_bytes = static_cast<int64_t>(options.model.expert_bytes());
  options.balancer.plan.seed = flags.seed;
  options.balancer.replica_choice = options.replica_choice;
  return Status::ok();
}

Result<Setup> set_up(const Flags& flags) {
  Setup setup;
  setup.options.num_iterations = flags.iterations;
  setup.options.threads = flags.threads;
  ASSIGN_OR_RETURN(setup.options.replica_choice, eplb::parse_replica_choice(flags.replica_choice));
  ASSIGN_OR_RETURN(setup.options.profile, eplb::read_hardware_profile(flags.profile));
  if (!flags.plan.empty()) {
    ASSIGN_OR_RETURN(setup.plan, eplb::read_plan(flags.plan));
    if (flags.num_slots > 0 && flags.num_slots != setup.plan.num_slots) {
      return Status::invalid_input(fmt::format("--num_slots {}: the plan has {} slots",
                                               flags.num_slots, setup.plan.num_slots));
    }
  }
  ASSIGN_OR_RETURN(setup.phases, open_phases(flags, setup.plan.num_experts));
  const BatchSource& source = setup.phases[0].source;
  if (flags.plan.empty()) {
    ASSIGN_OR_RETURN(setup.plan, default_plan(flags, source));
  }
  setup.options.model = flags.model;
  setup.options.model.top_k = source.top_k();
  RETURN_IF_ERROR(set_online(flags, setup));
  return setup;
}

// What is said about one side of the comparison.
struct SideSummary {
  eplb::Summary imbalance;
  eplb::Summary send_ranks;
  eplb::Summary step_time;
  double worst_layer_imbalance = 0;
  int worst_layer = 0;
};

SideSummary summarize_side(const eplb::ReplaySeries& series, const ReplayResult& result,
                           double eplb::ReplayLayer::*imbalance) {
  const auto worst =
      std::max_element(result.layers.begin(), result.layers.end(),
                       [&](const auto& a, const auto& b) { return a.*imbalance < b.*imbalance; });
  return {.imbalance = eplb::summarize(series.imbalance),
          .send_ranks = eplb::summarize(series.send_ranks),
          .step_time = eplb::summarize(series.step_time),
          .worst_layer_imbalance = *worst.*imbalance,
          .worst_layer = worst->layer};
}

struct Migration {
  int64_t transfers = 0;
  int64_t bytes = 0;
  int64_t most_bytes = 0;  // of an iteration
  int last_iteration = -1;
};

Migration summarize_migration(const ReplayResult& result) {
  Migration migration;
  for (size_t i = 0; i < result.transfers.size(); ++i) {
    const int64_t bytes = result.transfers[i] * result.transfer_bytes;
    migration.transfers += result.transfers[i];
    migration.bytes += bytes;
    migration.most_bytes = std::max(migration.most_bytes, bytes);
    if (bytes > 0) migration.last_iteration = static_cast<int>(i);
  }
  return migration;
}

std::string bytes_text(double bytes) {
  for (const char* unit : {"B", "kB", "MB", "GB"}) {
    if (bytes < 1000) return fmt::format("{:.4g} {}", bytes, unit);
    bytes /= 1000;
  }
  return fmt::format("{:.4g} TB", bytes);
}

void print_summary(const Flags& flags, const Setup& setup, const ReplayResult& result) {
  const SideSummary none = summarize_side(result.none, result, &eplb::ReplayLayer::imbalance_none);
  const SideSummary plan = summarize_side(result.plan, result, &eplb::ReplayLayer::imbalance);
  const BatchSource& source = setup.phases[0].source;
  fmt::print("{} iterations, {} layers, {} experts, top-{}, {} ranks, {}\n", flags.iterations,
             setup.plan.num_layers(), setup.plan.num_experts, source.top_k(), flags.ep_size,
             flags.tokens_per_rank > 0 ? fmt::format("{} tokens a rank", flags.tokens_per_rank)
                                       : std::string("tokens as recorded"));
  fmt::print("none: {}\nplan: {} slots, {}{}\n\n",
             result.none_has_replicas ? "default assignment of the plan's slots, round robin"
                                      : "experts in order, no replicas",
             setup.plan.num_slots, flags.replica_choice,
             flags.online ? fmt::format(", online, {} layers an iteration",
                                        setup.plan.layer_updates_per_iter)
                          : "");
  const auto line = [](std::string_view what, double a, double b, std::string_view note = "") {
    fmt::print("{:<34} {:>10.4f} {:>10.4f}{}{}\n", what, a, b, note.empty() ? "" : "  ", note);
  };
  fmt::print("{:<34} {:>10} {:>10}\n", "", "none", "plan");
  line("imbalance ratio, mean", none.imbalance.mean, plan.imbalance.mean);
  line("imbalance ratio, p99 iteration", none.imbalance.p99, plan.imbalance.p99);
  line("imbalance ratio, worst layer", none.worst_layer_imbalance, plan.worst_layer_imbalance,
       fmt::format("(layers {} and {})", none.worst_layer, plan.worst_layer));
  line("send ranks per token", none.send_ranks.mean, plan.send_ranks.mean);
  line(fmt::format("MoE step time on {}, mean ms", setup.options.profile.name),
       1e3 * none.step_time.mean, 1e3 * plan.step_time.mean,
       fmt::format("({:.2f}x)", none.step_time.mean / plan.step_time.mean));
  line("MoE step time, p99 ms", 1e3 * none.step_time.p99, 1e3 * plan.step_time.p99);
  if (!flags.online) return;
  const Migration migration = summarize_migration(result);
  fmt::print("\nmigration: {} transfers, {} ({} a rank and iteration; busiest iteration {})\n",
             migration.transfers, bytes_text(static_cast<double>(migration.bytes)),
             bytes_text(static_cast<double>(migration.bytes) / flags.ep_size / flags.iterations),
             bytes_text(static_cast<double>(migration.most_bytes)));
  if (migration.last_iteration >= 0) {
    fmt::print("last transfer in iteration {}\n", migration.last_iteration);
  }
}

OrderedJson summary_json(const eplb::Summary& summary) {
  return {{"mean", summary.mean}, {"p99", summary.p99}, {"max", summary.max}};
}

OrderedJson side_json(const eplb::ReplaySeries& series, const SideSummary& summary) {
  return {{"imbalance", summary_json(summary.imbalance)},
          {"worst_layer",
           {{"layer", summary.worst_layer}, {"imbalance", summary.worst_layer_imbalance}}},
          {"send_ranks_per_token", summary_json(summary.send_ranks)},
          {"step_time_s", summary_json(summary.step_time)},
          {"series",
           {{"imbalance", series.imbalance},
            {"send_ranks_per_token", series.send_ranks},
            {"step_time_s", series.step_time}}}};
}

Status write_json(const Flags& flags, const Setup& setup, const ReplayResult& result) {
  const Migration migration = summarize_migration(result);
  OrderedJson layers = OrderedJson::array();
  for (const eplb::ReplayLayer& layer : result.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"imbalance", layer.imbalance},
                      {"imbalance_none", layer.imbalance_none},
                      {"transfers", layer.transfers}});
  }
  const OrderedJson json = {
      {"ep_size", flags.ep_size},
      {"num_slots", setup.plan.num_slots},
      {"num_experts", setup.plan.num_experts},
      {"top_k", setup.options.model.top_k},
      {"tokens_per_rank", flags.tokens_per_rank},
      {"iterations", flags.iterations},
      {"replica_choice", flags.replica_choice},
      {"batching", flags.batching},
      {"online", flags.online},
      {"layer_updates_per_iter", setup.plan.layer_updates_per_iter},
      {"profile", setup.options.profile.name},
      {"seed", flags.seed},
      {"none", side_json(result.none,
                         summarize_side(result.none, result, &eplb::ReplayLayer::imbalance_none))},
      {"plan",
       side_json(result.plan, summarize_side(result.plan, result, &eplb::ReplayLayer::imbalance))},
      {"migration",
       {{"transfers", migration.transfers},
        {"bytes", migration.bytes},
        {"max_bytes_per_iteration", migration.most_bytes},
        {"transfers_per_iteration", result.transfers}}},
      {"layers", layers}};
  return write_file(flags.json, json.dump(1) + "\n");
}

Status run(const Flags& flags) {
  ASSIGN_OR_RETURN(Setup setup, set_up(flags));
  std::vector<eplb::ReplayPhase> phases;
  for (const Phase& phase : setup.phases) phases.push_back({&phase.source, phase.first_iteration});
  std::optional<ReplayResult> result;
  {
    ProgressBar bar("replaying", int64_t{flags.iterations} * setup.plan.num_layers(), "batches");
    setup.options.on_layer_iteration = [&] { bar.add(); };
    ASSIGN_OR_RETURN(result, eplb::replay(phases, setup.plan, flags.ep_size, setup.options));
  }
  if (!flags.json.empty()) RETURN_IF_ERROR(write_json(flags, setup, *result));
  print_summary(flags, setup, *result);
  return Status::ok();
}

void add_source_flags(CLI::App& command, Flags& flags) {
  command
      .add_option("--load", flags.loads,
                  "Statistics folder, logical_count json, csv or npy trace; several traces are "
                  "mixed in equal parts")
      ->required()
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command
      .add_option("--shift", flags.shifts,
                  "PATH[,PATH...]@ITERATION: batches come from these loads from there on; "
                  "repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_option("--tokens_per_rank", flags.tokens_per_rank,
                     "Tokens of a rank in an iteration; statistics folders: as recorded");
  command.add_option("--iterations", flags.iterations, "Iterations to simulate")
      ->capture_default_str();
  command
      .add_option("--batching", flags.batching,
                  "Of traces: mixed (a rank's tokens from all texts, as in decode) or sequence "
                  "(consecutive tokens of a text, as in prefill)")
      ->capture_default_str();
  command.add_option("--top_k", flags.model.top_k, "Experts a token; default: the load's, else 8");
  command.add_option("--seed", flags.seed, "Of the batches")->capture_default_str();
  command.add_option("--iter_start", flags.window.start, "First iteration of a statistics folder");
  command.add_option("--iter_stop", flags.window.stop, "One past its last iteration");
}

void add_placement_flags(CLI::App& command, Flags& flags) {
  command.add_option("--plan", flags.plan,
                     "Placement (YAML); default: TensorRT-LLM's default assignment");
  command.add_option("--ep_size", flags.ep_size, "EP ranks")->required();
  command.add_option("--num_slots", flags.num_slots, "Slots where no plan is given");
  command.add_option("--replica_choice", flags.replica_choice, "round_robin, quota or per_batch")
      ->capture_default_str();
  command.add_flag("--online", flags.online, "Re-plan layers in turn while replaying");
  command.add_option("--layer_updates_per_iter", flags.layer_updates_per_iter,
                     "Layers whose turn it is in an iteration; default: the plan's");
  command
      .add_option("--max_transfers", flags.max_transfers,
                  "Slots of a layer that may move at its turn; -1: all")
      ->capture_default_str();
  command.add_option("--algorithm", flags.algorithm, "Planner of --online")->capture_default_str();
  command
      .add_option("--decay", flags.balancer.decay,
                  "Of the load that --online plans for, an iteration")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      .add_option("--min_gain", flags.balancer.min_gain,
                  "Move only where max/mean of the last batches falls by more than this")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--noise_factor", flags.balancer.noise_factor,
                  "... and by more than so many standard errors")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--shift_factor", flags.balancer.shift_factor,
                  "Forget older load that differs by so many times the noise; 0: always")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

void add_model_flags(CLI::App& command, Flags& flags) {
  command.add_option("--profile", flags.profile, "h100, h200, gb200 or a json file")
      ->capture_default_str();
  command.add_option("--hidden_size", flags.model.hidden_size, "Of the model")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--moe_intermediate_size", flags.model.moe_intermediate_size, "Of an expert")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--bytes_per_weight", flags.model.bytes_per_weight, "2: bf16, 1: FP8, 0.5: FP4")
      ->check(CLI::IsMember({0.5, 1.0, 2.0}))
      ->capture_default_str();
  command.add_option("--json", flags.json, "Also write summaries, layers and iterations here");
  command.add_option("--threads", flags.threads, "0: all cores; does not change the numbers")
      ->capture_default_str();
}

}  // namespace

void add_eplb_replay(CLI::App& eplb) {
  CLI::App* command = eplb.add_subcommand(
      "replay", "Simulate iterations: imbalance, send ranks, migration and step time");
  auto flags = std::make_shared<Flags>();
  add_source_flags(*command, *flags);
  add_placement_flags(*command, *flags);
  add_model_flags(*command, *flags);
  command->callback([flags] { finish(run(*flags)); });
}

}  // namespace wideep::cli
