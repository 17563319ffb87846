// wideep bench moe: the MoE layers of a model by both backends, with and without a balancer, on the
// same tokens, and where their time goes.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/bench_moe_report.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "config/check.h"
#include "config/mapping.h"
#include "dist/groups.h"
#include "dist/world.h"
#include "engine/rank_device.h"
#include "eplb/planner.h"
#include "eplb/replica_choice.h"
#include "models/moe_bench.h"
#include "models/wide_ep_setup.h"
#include "moe/bench_routing.h"

namespace wideep::cli {
namespace {

struct MoeArguments {
  EngineFlags engine;
  int ep = 0;  // 0: as many as mpirun started, or as there are GPUs, or 2
  bool is_mpi = false;
  int layers = 1;
  std::vector<int> tokens = {128, 1024};
  int num_slots = 0;  // 0: two a rank more than needed
  std::string skew = "zipf:0.8";
  std::vector<int> skew_layers;
  std::vector<std::string> variants = {"cutlass", "wideep", "plan", "online"};
  std::vector<std::string> replica_choices = {"round_robin", "quota", "per_batch"};
  int calls = 20;
  int warmup = 3;
  int online_warmup = 48;
  int layer_updates_per_iter = 1;
  uint64_t seed = 1;
  std::string report_json;
};

// One way to run the layers.
struct Setup {
  std::string name;  // of --variants
  MoeBackend backend = MoeBackend::kCutlass;
  std::optional<eplb::ReplicaChoice> choice;  // none: a slot an expert, in order

  bool is_online() const { return name == "online"; }
  std::string title() const {
    return choice ? fmt::format("{}, {}", name, replica_choice_name(*choice)) : name;
  }
};

// What the ranks measure with, the same on all of them.
struct Job {
  const MoeArguments* arguments = nullptr;
  ModelConfig model;  // its first layers with experts, without the shared one
  moe::BenchRouting routing;
  eplb::Plan plan;
};

std::vector<Setup> setups_of(const MoeArguments& arguments) {
  std::vector<Setup> setups;
  for (const std::string& name : arguments.variants) {
    const MoeBackend backend = name == "cutlass" ? MoeBackend::kCutlass : MoeBackend::kWideEp;
    if (name == "cutlass" || name == "wideep") {
      setups.push_back({name, backend, {}});
      continue;
    }
    for (const std::string& choice : arguments.replica_choices) {
      setups.push_back({name, backend, eplb::parse_replica_choice(choice).value()});
    }
  }
  return setups;
}

int num_slots_of(const MoeArguments& arguments, const ModelConfig& model) {
  constexpr int kSpareSlots = 2;  // of a rank
  if (arguments.num_slots > 0) return arguments.num_slots;
  return eplb::slots_with_spares(model.moe.num_experts, arguments.ep, kSpareSlots);
}

Result<eplb::Plan> make_plan(const MoeArguments& arguments, const ModelConfig& model,
                             const moe::BenchRouting& routing) {
  eplb::PlanOptions options;
  options.num_slots = num_slots_of(arguments, model);
  options.ep_size = arguments.ep;
  options.threads = 1;  // every rank makes it
  ASSIGN_OR_RETURN(eplb::PlanResult result, eplb::make_plan(routing.workload(), options));
  return std::move(result.plan);
}

Result<Job> prepare(const MoeArguments& arguments, const EngineJob& engine_job) {
  ModelConfig model = engine_job.model;
  RETURN_IF_ERROR(models::check_moe_layers(model, arguments.layers));
  const auto is_replicated = [](const std::string& name) {
    return name == "plan" || name == "online";
  };
  if (arguments.ep == 1 && std::ranges::any_of(arguments.variants, is_replicated)) {
    return Status::invalid_input(
        "--ep 1: replicas need a second rank: use --variants cutlass,wideep, or a larger --ep");
  }
  model.moe_layers.resize(static_cast<size_t>(arguments.layers));
  model.moe.shared_intermediate_size = 0;
  moe::BenchRoutingOptions options;
  options.skew = arguments.skew;
  options.num_experts = model.moe.num_experts;
  options.top_k = model.moe.top_k;
  options.num_ranks = arguments.ep;
  options.layers = model.moe_layers;
  options.skew_layers = arguments.skew_layers;
  options.seed = arguments.seed;
  ASSIGN_OR_RETURN(moe::BenchRouting routing, moe::BenchRouting::create(std::move(options)));
  eplb::Plan plan;
  if (std::ranges::find(arguments.variants, "plan") != arguments.variants.end()) {
    ASSIGN_OR_RETURN(plan, make_plan(arguments, model, routing));
  }
  return Job{&arguments, std::move(model), std::move(routing), std::move(plan)};
}

// The configuration that runs a setup.
Result<EngineConfig> configure(const Job& job, const EngineConfig& base, const Setup& setup) {
  EngineConfig engine = base;
  engine.moe.backend = setup.backend;
  if (setup.choice) {
    BalancerConfig balancer;
    balancer.num_slots = num_slots_of(*job.arguments, job.model);
    balancer.replica_choice = *setup.choice;
    if (setup.is_online()) {
      balancer.layer_updates_per_iter = job.arguments->layer_updates_per_iter;
    } else {
      for (int i = 0; i < job.plan.num_layers(); ++i) {
        const auto row = job.plan.row(i);
        balancer.initial_global_assignments[job.plan.layers[i]].assign(row.begin(), row.end());
      }
    }
    engine.moe.load_balancer = std::move(balancer);
  }
  RETURN_IF_ERROR(check_engine_config(engine, &job.model));
  return engine;
}

// Calls take so many batches in turn.
constexpr int kBatches = 8;

using Batches = std::vector<moe::BenchRouting::Batch>;

Result<Batches> draw_batches(const Job& job, int rank, int tokens, bool is_balanced) {
  const int num_layers = job.arguments->layers;
  Batches batches;
  for (int batch = 0; batch < kBatches; ++batch) {
    if (!is_balanced) {
      ASSIGN_OR_RETURN(moe::BenchRouting::Batch drawn, job.routing.draw(batch, rank, tokens));
      batches.push_back(std::move(drawn));
      continue;
    }
    moe::BenchRouting::Batch& layers = batches.emplace_back();
    for (int layer = 0; layer < num_layers; ++layer) {
      layers.push_back(
          moe::balanced_experts(job.routing.options(), batch * num_layers + layer, rank, tokens));
    }
  }
  return batches;
}

double difference_of(const std::vector<float>& y, const std::vector<float>& reference) {
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    difference += std::pow(double{y[i]} - double{reference[i]}, 2);
    size += std::pow(double{reference[i]}, 2);
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

// All setups, on one rank.
class RankBench {
 public:
  RankBench(const Job& job, const EngineJob& engine_job, engine::RankDevice& device,
            const Mapping& mapping, dist::Groups& groups, dist::Communicator& world)
      : job_(job),
        engine_job_(engine_job),
        device_(device),
        mapping_(mapping),
        groups_(groups),
        world_(world) {}

  Status run(const Setup& setup) {
    ASSIGN_OR_RETURN(const EngineConfig engine, configure(job_, engine_job_.engine, setup));
    ASSIGN_OR_RETURN(const auto source, models::open_weights(LoadFormat::kDummy, "", job_.model));
    models::ModelOptions options;
    options.config = &job_.model;
    options.engine = &engine;
    options.mapping = &mapping_;
    options.groups = &groups_;
    options.source = source.get();
    options.weight_dtype = engine_job_.dtype;
    options.available_bytes = device_.available_bytes();
    const auto start = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const auto bench,
                     models::MoeBench::create(device_.stream(), options, job_.arguments->layers));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (world_.rank() == 0) {
      fmt::print(stderr, "{}: {:.2f} GB of weights a rank in {:.1f} s\n", setup.title(),
                 static_cast<double>(bench->weight_bytes()) * 1e-9, seconds.count());
    }
    for (const int tokens : job_.arguments->tokens) {
      RETURN_IF_ERROR(measure(*bench, setup, tokens, false));
      if (!setup.choice) RETURN_IF_ERROR(measure(*bench, setup, tokens, true));
    }
    if (!moves_) {
      ASSIGN_OR_RETURN(moves_, bench->time_moves());
    }
    return world_.barrier();
  }

  const std::vector<MoeBenchRow>& rows() const { return rows_; }
  const std::optional<moe::MoveTimes>& moves() const { return moves_; }

 private:
  Status measure(models::MoeBench& bench, const Setup& setup, int tokens, bool is_balanced) {
    ASSIGN_OR_RETURN(const models::MoeBenchInput input, make_input(setup, tokens, is_balanced));
    MoeBenchRow row;
    row.name = setup.title();
    row.backend = setup.backend == MoeBackend::kWideEp ? "WideEP" : "CUTLASS";
    row.placement = setup.choice ? setup.name : "in_order";
    if (setup.choice) row.replica_choice = replica_choice_name(*setup.choice);
    row.num_slots =
        setup.choice ? num_slots_of(*job_.arguments, job_.model) : job_.model.moe.num_experts;
    row.is_balanced = is_balanced;
    row.tokens = tokens;
    ASSIGN_OR_RETURN(row.result, bench.measure(input));
    if (!is_balanced) RETURN_IF_ERROR(compare(row));
    rows_.push_back(std::move(row));
    return Status::ok();
  }

  // All setups get the same batches, which are drawn once.
  Result<models::MoeBenchInput> make_input(const Setup& setup, int tokens, bool is_balanced) {
    const MoeArguments& arguments = *job_.arguments;
    Batches& batches = batches_[{tokens, is_balanced}];
    if (batches.empty()) {
      ASSIGN_OR_RETURN(batches, draw_batches(job_, world_.rank(), tokens, is_balanced));
    }
    models::MoeBenchInput input;
    input.tokens = tokens;
    input.batches = batches;
    input.warmup = setup.is_online() ? arguments.online_warmup : arguments.warmup;
    input.settle = true;
    input.calls = arguments.calls;
    return input;
  }

  // A layer that computes something else is not worth a number.
  Status compare(MoeBenchRow& row) {
    const bool rounds = device_.stream().is_cuda() && engine_job_.dtype != DType::kF32;
    const double most = rounds ? 0.03 : 1e-4;
    const auto first = std::ranges::find_if(rows_, [&](const MoeBenchRow& other) {
      return other.tokens == row.tokens && !other.is_balanced;
    });
    if (first == rows_.end()) return Status::ok();
    constexpr double kUnit = 1e-12;
    const double own = difference_of(row.result.y, first->result.y);
    auto largest = static_cast<int64_t>(std::min(own, 1e3) / kUnit);
    RETURN_IF_ERROR(world_.all_reduce_max(std::span<int64_t>(&largest, 1)));
    row.difference = static_cast<double>(largest) * kUnit;
    if (*row.difference <= most) return Status::ok();
    return Status::aborted(
        fmt::format("{} tokens a rank: the output of '{}' differs from that of '{}' by {:.3g} of "
                    "its size: one of them is wrong",
                    row.tokens, row.name, first->name, *row.difference));
  }

  const Job& job_;
  const EngineJob& engine_job_;
  engine::RankDevice& device_;
  const Mapping& mapping_;
  dist::Groups& groups_;
  dist::Communicator& world_;
  std::map<std::pair<int, bool>, Batches> batches_;  // by tokens of a rank, and whether balanced
  std::vector<MoeBenchRow> rows_;
  std::optional<moe::MoveTimes> moves_;
};

std::string moves_text(const moe::MoveTimes& moves) {
  return fmt::format(
      "A move, while nothing else runs: {:.1f} MB to another GPU in {:.0f} us, {:.0f} GB/s; "
      "into its slot between two iterations in {:.1f} us\n",
      static_cast<double>(moves.bytes) * 1e-6, moves.copy_us, moves.copy_gbytes_per_second(),
      moves.commit_us);
}

std::string head_text(const Job& job, const EngineJob& engine_job) {
  const MoeArguments& arguments = *job.arguments;
  const MoeModelConfig& moe = job.model.moe;
  const bool is_cpu = engine_job.device == engine::DeviceKind::kCpu;
  std::string text = fmt::format(
      "{}: {} of {} layers with {} experts, top-{}, hidden {}, intermediate {}, {}\n{} ranks, {}; "
      "{} slots with a balancer\nskew {}",
      engine_job.folder, arguments.layers, engine_job.model.moe_layers.size(), moe.num_experts,
      moe.top_k, job.model.hidden_size, moe.intermediate_size, dtype_name(engine_job.dtype),
      arguments.ep, is_cpu ? "CPU" : "GPU", num_slots_of(arguments, job.model), arguments.skew);
  if (const auto& recorded = job.routing.recorded_layers(); !recorded.empty()) {
    text += fmt::format(", its layers {}", fmt::join(recorded, ", "));
  }
  text += "\n";
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (is_cpu && arguments.ep > cores) {
    text += fmt::format(
        "{} ranks on a machine with {} cores take turns: what one rank has less to do another "
        "gains "
        "at once,\nand waiting is for cores as much as for the slowest rank\n",
        arguments.ep, cores);
  }
  return text;
}

Status write_report(const Job& job, const EngineJob& engine_job, const RankBench& bench) {
  const MoeArguments& arguments = *job.arguments;
  const MoeModelConfig& moe = job.model.moe;
  OrderedJson document = {{"benchmark", "moe"}};
  document.update(run_environment());
  document["model"] = {
      {"folder", engine_job.folder},          {"dtype", dtype_name(engine_job.dtype)},
      {"hidden_size", job.model.hidden_size}, {"moe_intermediate_size", moe.intermediate_size},
      {"num_experts", moe.num_experts},       {"top_k", moe.top_k}};
  document["ranks"] = arguments.ep;
  document["world"] = arguments.is_mpi ? "mpi" : "local";
  document["device"] = engine_job.device == engine::DeviceKind::kCpu ? "cpu" : "cuda";
  document["layers"] = arguments.layers;
  document["skew"] = {{"source", arguments.skew},
                      {"recorded_layers", job.routing.recorded_layers()},
                      {"seed", arguments.seed}};
  document["calls"] = arguments.calls;
  document["layer_updates_per_iter"] = arguments.layer_updates_per_iter;
  document["results"] = moe_bench_json(bench.rows());
  if (const auto& moves = bench.moves()) {
    document["move"] = {{"expert_bytes", moves->bytes},
                        {"copy_us", moves->copy_us},
                        {"copy_gbytes_per_second", moves->copy_gbytes_per_second()},
                        {"commit_us", moves->commit_us}};
  }
  return write_file(arguments.report_json, document.dump(1) + "\n");
}

Status moe_rank(const MoeArguments& arguments, const EngineJob& engine_job, ThreadPool& pool,
                dist::Communicator& world) {
  ASSIGN_OR_RETURN(const Job job, prepare(arguments, engine_job));
  const std::vector<Setup> setups = setups_of(arguments);
  ASSIGN_OR_RETURN(const Mapping mapping, Mapping::create(engine_job.engine.parallel));
  ASSIGN_OR_RETURN(dist::Groups groups, dist::make_groups(mapping, world));
  ASSIGN_OR_RETURN(const auto device, engine::RankDevice::open(engine_job.device, pool, world));
  RankBench bench(job, engine_job, *device, mapping, groups, world);
  for (const Setup& setup : setups) RETURN_IF_ERROR(bench.run(setup));
  if (world.rank() != 0) return Status::ok();
  fmt::print("{}{}", head_text(job, engine_job), moe_bench_text(bench.rows()));
  if (bench.moves()) fmt::print("{}", moves_text(*bench.moves()));
  return arguments.report_json.empty() ? Status::ok() : write_report(job, engine_job, bench);
}

// What the layers need of the engine's configuration.
void complete(MoeArguments& arguments) {
  const auto launch = value_or_finish(dist::launch_from_environment());
  arguments.is_mpi = launch && arguments.engine.world != "local";
  if (arguments.ep == 0) {
    const auto gpus = static_cast<int>(device_report().devices.size());
    const bool is_gpu = arguments.engine.device != "cpu" && gpus > 0;
    arguments.ep = arguments.is_mpi ? launch->size : is_gpu ? gpus : 2;
  }
  arguments.engine.dp = 1;
  EngineOverrides& overrides = arguments.engine.overrides;
  overrides.tp = arguments.ep;
  overrides.ep = arguments.ep;
  if (arguments.ep > 1) overrides.enable_attention_dp = true;
  overrides.load_format = LoadFormat::kDummy;
  overrides.max_num_tokens = std::ranges::max(arguments.tokens);
}

void add_what_is_measured(CLI::App& command, MoeArguments& arguments) {
  command
      .add_option("--ep,--ep_size", arguments.ep,
                  "Ranks; 0: those of mpirun, else one a GPU, else 2")
      ->check(CLI::Range(0, 1024));
  command.add_option("--layers", arguments.layers, "MoE layers, the model's first")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--tokens", arguments.tokens, "Tokens a rank")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      .add_option("--variants", arguments.variants,
                  "cutlass (all-gather, reduce-scatter), wideep (a slot an expert), plan (of the "
                  "skew, with spare slots), online")
      ->delimiter(',')
      ->check(CLI::IsMember({"cutlass", "wideep", "plan", "online"}))
      ->capture_default_str();
  command
      .add_option("--replica_choices", arguments.replica_choices,
                  "Of plan and online: round_robin, quota, per_batch")
      ->delimiter(',')
      ->check(CLI::IsMember({"round_robin", "quota", "per_batch"}))
      ->capture_default_str();
  command
      .add_option("--num_slots", arguments.num_slots,
                  "Of a layer over all ranks, with plan and online; 0: two a rank to spare")
      ->check(CLI::NonNegativeNumber);
}

void add_skew_flags(CLI::App& command, MoeArguments& arguments) {
  command
      .add_option("--skew", arguments.skew,
                  "uniform, zipf:S, or a recorded load or routing as eplb generate reads them")
      ->capture_default_str();
  command
      .add_option("--skew_layers", arguments.skew_layers,
                  "Recorded layer for each of --layers; default: at even distances")
      ->delimiter(',');
  command.add_option("--seed", arguments.seed, "Of the tokens that are drawn")
      ->capture_default_str();
}

void add_effort_flags(CLI::App& command, MoeArguments& arguments) {
  command
      .add_option("--calls", arguments.calls,
                  "Passes over the layers that are timed, and as many with a profile")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command.add_option("--warmup", arguments.warmup, "Passes before")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--online_warmup", arguments.online_warmup,
                  "Passes before, in which the online balancer finds its placement")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--layer_updates_per_iter", arguments.layer_updates_per_iter,
                  "Of the online balancer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

void add_place_flags(CLI::App& command, EngineFlags& flags) {
  add_model_flags(command, flags);
  command.add_option("--dtype", flags.dtype, "auto | fp8 | bf16 | fp32, as of bench throughput")
      ->check(CLI::IsMember({"auto", "fp8", "bf16", "fp32"}));
  command.add_option("--device", flags.device, "cpu, cuda, or auto: cuda where there is a GPU")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  command
      .add_option("--world", flags.world,
                  "local (threads), mpi (processes of mpirun), or auto: mpi under mpirun")
      ->check(CLI::IsMember({"auto", "local", "mpi"}));
  command.add_option("--threads", flags.threads, "Threads of this process; default: its cores")
      ->check(CLI::Range(1, 4096));
}

}  // namespace

void add_bench_moe(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "moe", "Time MoE layers by both backends, with and without a balancer, part by part");
  const auto arguments = std::make_shared<MoeArguments>();
  add_place_flags(*command, arguments->engine);
  add_what_is_measured(*command, *arguments);
  add_skew_flags(*command, *arguments);
  add_effort_flags(*command, *arguments);
  command->add_option("--report_json", arguments->report_json, "Write the results here");
  command->callback([arguments] {
    complete(*arguments);
    run_ranks(arguments->engine,
              [&](const EngineJob& job, ThreadPool& pool, dist::Communicator& world) {
                return moe_rank(*arguments, job, pool, world);
              });
  });
}

}  // namespace wideep::cli
