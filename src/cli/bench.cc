// wideep bench throughput | latency: a load of requests on the engine, with trtllm-bench's flags.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/progress.h"
#include "cli/balancer_history.h"
#include "cli/bench_load.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "cli/gather.h"
#include "cli/load_report.h"
#include "engine/dataset.h"
#include "eplb/report.h"

namespace wideep::cli {
namespace {

using engine::DatasetEntry;
using engine::GenerationRequest;

struct BenchArguments {
  std::string mode;  // throughput or latency
  EngineFlags engine;
  std::string backend = "pytorch";
  std::string dataset;
  std::string report_json;
  int num_requests = 0;  // 0: all of the dataset, or default_requests
  int default_requests = 0;
  int concurrency = 0;
  int warmup = 2;
  int input_tokens = 128;
  int output_tokens = 128;
  uint64_t seed = 0;
  std::optional<int> eos_id;
};

// Warm-up prompts must not fill the cache with the prefixes that are measured.
constexpr uint64_t kWarmupSeed = 0x77a2;

Result<std::vector<DatasetEntry>> read_load(const BenchArguments& arguments, int vocab_size) {
  if (arguments.dataset.empty()) {
    return engine::synthetic_dataset({.num_requests = arguments.num_requests > 0
                                                          ? arguments.num_requests
                                                          : arguments.default_requests,
                                      .input_tokens = arguments.input_tokens,
                                      .output_tokens = arguments.output_tokens,
                                      .vocab_size = vocab_size,
                                      .seed = arguments.seed});
  }
  ASSIGN_OR_RETURN(std::vector<DatasetEntry> entries, engine::read_dataset(arguments.dataset));
  if (arguments.num_requests > static_cast<int>(entries.size())) {
    return Status::invalid_input(fmt::format("--num_requests: {}: {} has {} requests",
                                             arguments.num_requests, arguments.dataset,
                                             entries.size()));
  }
  if (arguments.num_requests > 0) entries.resize(static_cast<size_t>(arguments.num_requests));
  return entries;
}

Result<GenerationRequest> request_of(const BenchArguments& arguments, const DatasetEntry& entry,
                                     const engine::Llm& llm) {
  GenerationRequest request;
  request.prompt = entry.input_ids;
  if (!entry.prompt.empty()) {
    if (llm.tokenizer() == nullptr) {
      return Status::invalid_input(
          fmt::format("{}: has prompts, but the model has no tokenizer.json", arguments.dataset));
    }
    ASSIGN_OR_RETURN(request.prompt, llm.tokenizer()->encode(entry.prompt));
  }
  request.max_new_tokens = entry.output_tokens;
  if (arguments.eos_id) {
    request.ignore_eos = true;
    if (*arguments.eos_id >= 0) request.stop_token_ids = {*arguments.eos_id};
  }
  const Status status = engine::check_request(request, llm.limits());
  if (!status.is_ok()) {
    return status.prefixed(fmt::format(
        "{}: task_id {}: ", arguments.dataset.empty() ? "load" : arguments.dataset, entry.task_id));
  }
  return request;
}

// The requests of this replica.
Result<std::vector<GenerationRequest>> requests_of(const BenchArguments& arguments,
                                                   const std::vector<DatasetEntry>& entries,
                                                   const engine::Llm& llm) {
  std::vector<GenerationRequest> requests;
  for (size_t i = 0; i < entries.size() && llm.is_leader(); ++i) {
    if (static_cast<int>(i) % llm.num_replicas() != llm.replica()) continue;
    ASSIGN_OR_RETURN(GenerationRequest request, request_of(arguments, entries[i], llm));
    requests.push_back(std::move(request));
  }
  return requests;
}

// Requests like these with random prompts.
std::vector<GenerationRequest> warmup_like(const std::vector<GenerationRequest>& requests,
                                           int count, int vocab_size) {
  std::vector<GenerationRequest> warmup;
  for (int i = 0; i < count && !requests.empty(); ++i) {
    warmup.push_back(requests[static_cast<size_t>(i) % requests.size()]);
    warmup.back().prompt =
        engine::synthetic_dataset({.num_requests = 1,
                                   .input_tokens = static_cast<int>(warmup.back().prompt.size()),
                                   .output_tokens = 1,
                                   .vocab_size = vocab_size,
                                   .seed = kWarmupSeed + static_cast<uint64_t>(i)})[0]
            .input_ids;
  }
  return warmup;
}

// Replicas work side by side: their iterations are not added up.
engine::RunStats add_replicas(const std::vector<engine::RunStats>& replicas) {
  engine::RunStats sum;
  for (const engine::RunStats& each : replicas) {
    sum.iterations = std::max(sum.iterations, each.iterations);
    sum.computed_tokens += each.computed_tokens;
    sum.generated_tokens += each.generated_tokens;
    sum.cached_tokens += each.cached_tokens;
    sum.recomputed_tokens += each.recomputed_tokens;
    sum.preemptions += each.preemptions;
  }
  return sum;
}

int concurrency_of(const BenchArguments& arguments, const engine::Llm& llm) {
  // Each replica keeps its share in flight.
  const int replicas = llm.num_replicas();
  return arguments.concurrency > 0 ? (arguments.concurrency + replicas - 1) / replicas : 0;
}

// Runs the requests on all ranks; the summary is the same on all of them.
Result<BenchSummary> measure(const BenchArguments& arguments, engine::Llm& llm,
                             dist::Communicator& world, std::vector<GenerationRequest> requests,
                             bool show_progress) {
  std::optional<ProgressBar> bar;
  if (show_progress && world.rank() == 0) {
    bar.emplace(arguments.mode, static_cast<int64_t>(requests.size()), "requests");
  }
  engine::RequestQueue queue;
  BenchLoad load(queue, std::move(requests), concurrency_of(arguments, llm), [&] {
    if (bar) bar->add();
  });
  RETURN_IF_ERROR(world.barrier());
  const auto start = std::chrono::steady_clock::now();
  if (llm.is_leader()) load.start();
  ASSIGN_OR_RETURN(const engine::RunStats stats, llm.run(llm.is_leader() ? &queue : nullptr));
  RETURN_IF_ERROR(world.barrier());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  RETURN_IF_ERROR(load.status());
  ASSIGN_OR_RETURN(const std::vector<RequestRecord> records,
                   gather<RequestRecord>(world, load.records()));
  const std::span<const engine::RunStats> own(&stats, llm.is_leader() ? 1 : 0);
  ASSIGN_OR_RETURN(const std::vector<engine::RunStats> all, gather(world, own));
  return summarize(records, seconds.count(), add_replicas(all));
}

// The loads of ranks where routed experts were counted; nullopt where they were not.
Result<std::optional<eplb::LoadReport>> recorded_loads(const engine::Llm& llm) {
  const engine::StatisticsOutcome* outcome = llm.statistics();
  if (outcome == nullptr || !outcome->counts) return std::optional<eplb::LoadReport>();
  ASSIGN_OR_RETURN(eplb::LoadReport report, eplb::make_load_report(*outcome->counts, {}));
  return std::optional(std::move(report));
}

std::string loads_text(const eplb::LoadReport& loads) {
  return fmt::format("\nLoad statistics of {} ranks, iterations {}-{}:\n{}",
                     loads.recorded->num_ranks, loads.iter_start, loads.iter_stop,
                     load_table_text(loads));
}

OrderedJson loads_json(const engine::StatisticsOutcome& outcome, const eplb::LoadReport& loads) {
  OrderedJson json = {{"expert_statistic_path", outcome.asked.folder},
                      {"iter_start", loads.iter_start},
                      {"iter_stop", loads.iter_stop}};
  json.update(load_view_json(*loads.recorded));
  return json;
}

struct Outcome {
  int ranks = 0;  // of the world
  int replicas = 0;
  const BenchSummary& summary;
  const BalancerHistory& history;
  const std::optional<OrderedJson>& load_statistics;
};

Status write_report(const BenchArguments& arguments, const EngineJob& job, const Outcome& outcome) {
  OrderedJson report = {{"benchmark", arguments.mode}};
  report.update(run_environment());
  report["model"] = {{"folder", job.folder},
                     {"architecture", job.model.architecture},
                     {"dtype", dtype_name(job.dtype)}};
  report["world"] = {{"ranks", outcome.ranks}, {"replicas", outcome.replicas}};
  report["load"] = {{"dataset", arguments.dataset.empty() ? "synthetic" : arguments.dataset},
                    {"concurrency", arguments.concurrency},
                    {"warmup", arguments.warmup},
                    {"seed", arguments.seed}};
  report["results"] = report_json(outcome.summary);
  if (!outcome.history.empty()) report["balancer"] = outcome.history.json();
  if (outcome.load_statistics) report["load_statistics"] = *outcome.load_statistics;
  report["config"] = engine_config_yaml(job.engine);
  return write_file(arguments.report_json, report.dump(1) + "\n");
}

// history: of rank 0, which writes it.
Status run_rank(const BenchArguments& arguments, const EngineJob& job, engine::Llm& llm,
                dist::Communicator& world, BalancerHistory& history) {
  ASSIGN_OR_RETURN(const std::vector<DatasetEntry> entries,
                   read_load(arguments, job.model.vocab_size));
  ASSIGN_OR_RETURN(std::vector<GenerationRequest> requests, requests_of(arguments, entries, llm));
  if (arguments.warmup > 0) {
    auto warmup = warmup_like(requests, arguments.warmup, job.model.vocab_size);
    RETURN_IF_ERROR(measure(arguments, llm, world, std::move(warmup), false).status());
    if (world.rank() == 0) history.clear();
  }
  ASSIGN_OR_RETURN(const BenchSummary summary,
                   measure(arguments, llm, world, std::move(requests), true));
  RETURN_IF_ERROR(llm.finish_statistics());
  if (world.rank() != 0) return Status::ok();
  ASSIGN_OR_RETURN(const std::optional<eplb::LoadReport> loads, recorded_loads(llm));
  if (!arguments.report_json.empty()) {
    std::optional<OrderedJson> load_statistics;
    if (loads) load_statistics = loads_json(*llm.statistics(), *loads);
    RETURN_IF_ERROR(write_report(
        arguments, job, {world.size(), llm.num_replicas(), summary, history, load_statistics}));
  }
  fmt::print("{}{}{}", report_text(summary), history.empty() ? "" : "\n" + history.text(),
             loads ? loads_text(*loads) : "");
  return Status::ok();
}

void run(const BenchArguments& arguments) {
  BalancerHistory history;
  run_engine(
      arguments.engine,
      [&](const EngineJob& job, engine::Llm& llm, dist::Communicator& world) {
        return run_rank(arguments, job, llm, world, history);
      },
      [&history](const engine::IterationInfo& info) { history.add(info); });
}

// `before`: what was given before the mode's name, as trtllm-bench wants it.
void add_mode(CLI::App& bench, const std::string& description, const BenchArguments& defaults,
              const std::shared_ptr<const EngineFlags>& before) {
  CLI::App* command = bench.add_subcommand(defaults.mode, description);
  const auto arguments = std::make_shared<BenchArguments>(defaults);
  add_engine_flags(*command, arguments->engine);
  add_metrics_flag(*command, arguments->engine);
  command
      ->add_option("--backend", arguments->backend,
                   "Only pytorch: TensorRT-LLM's name for the engine whose flags these are")
      ->check(CLI::IsMember({"pytorch"}));
  command->add_option("--dataset", arguments->dataset,
                      "Requests, a JSON object a line; default: random prompts");
  command
      ->add_option("--num_requests", arguments->num_requests,
                   fmt::format("Default: all of the dataset, or {}", defaults.default_requests))
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--concurrency", arguments->concurrency,
                   defaults.concurrency == 0 ? "Requests in flight; default: all"
                                             : "Requests in flight; default: 1")
      ->check(CLI::PositiveNumber);
  command->add_option("--warmup", arguments->warmup, "Requests before the measurement; default: 2")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--eos_id", arguments->eos_id,
                   "Token that ends an answer, -1: none; default: the model's")
      ->check(CLI::Range(-1, 1 << 24));
  command
      ->add_option("--input_tokens", arguments->input_tokens,
                   "Of a random prompt, without --dataset; default: 128")
      ->check(CLI::PositiveNumber);
  command->add_option("--output_tokens", arguments->output_tokens, "Of its answer; default: 128")
      ->check(CLI::PositiveNumber);
  command->add_option("--seed", arguments->seed, "Of the random prompts");
  command->add_option("--report_json", arguments->report_json,
                      "Write the numbers, the machine and the configuration to this file");
  command->callback([arguments, before] {
    EngineFlags& engine = arguments->engine;
    if (engine.model.empty()) engine.model = before->model;
    if (engine.model_path.empty()) engine.model_path = before->model_path;
    run(*arguments);
  });
}

}  // namespace

void add_bench(CLI::App& parent) {
  CLI::App* bench = parent.add_subcommand("bench", "Measure the engine");
  bench->require_subcommand(1);
  const auto before = std::make_shared<EngineFlags>();
  add_model_flags(*bench, *before);
  BenchArguments throughput;
  throughput.mode = "throughput";
  throughput.default_requests = 64;
  add_mode(*bench, "Many requests at once: tokens a second", throughput, before);
  BenchArguments latency;
  latency.mode = "latency";
  latency.default_requests = 10;
  latency.concurrency = 1;
  add_mode(*bench, "One request after the other: times to tokens", latency, before);
  add_bench_prepare(*bench);
  add_bench_all_to_all(*bench);
  add_bench_moe(*bench);
  add_bench_ops(*bench);
  add_bench_step(*bench);
}

}  // namespace wideep::cli
