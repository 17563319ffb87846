#include "cli/engine_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "base/file.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "cli/balancer_history.h"
#include "cli/commands.h"
#include "cli/job_metrics.h"
#include "cli/worlds.h"
#include "config/check.h"
#include "config/mapping.h"
#include "dist/world.h"

namespace wideep::cli {
namespace {

// The embedded model, from the working directory or from where this program was built.
constexpr const char* kEmbeddedModel = "models/dsv3-tiny";

Result<DType> choose_dtype(const std::string& name, const ModelConfig& model,
                           engine::DeviceKind device) {
  const bool on_gpu = device == engine::DeviceKind::kCuda;
  if (name == "fp32") return DType::kF32;
  if (name == "bf16") return DType::kBF16;
  if (name == "fp8") {
    if (on_gpu) return DType::kF8E4M3;
    return Status::invalid_input("--dtype fp8: needs a GPU; the CPU computes in bf16 or fp32");
  }
  if (model.type == ModelType::kFp32) return DType::kF32;
  return on_gpu && model.fp8_block ? DType::kF8E4M3 : DType::kBF16;
}

const char* dtype_text(DType dtype) {
  if (dtype == DType::kF32) return "fp32";
  return dtype == DType::kBF16 ? "bf16" : "fp8";
}

// Where the ranks come from. A world of MPI must be made before anything can fail, or a process
// that ends early would take the others' message with it.
struct Place {
  dist::World world;
  int processes_on_host = 1;
};

Result<std::optional<Place>> find_mpi(const EngineFlags& flags) {
  ASSIGN_OR_RETURN(const std::optional<dist::Launch> launch, dist::launch_from_environment());
  if (flags.world == "local" || (flags.world == "auto" && !launch)) return std::optional<Place>();
  ASSIGN_OR_RETURN(dist::World world, mpi_world());
  return std::optional<Place>(Place{std::move(world), launch ? launch->local_size : 1});
}

Result<dist::World> make_local(const EngineFlags& flags, const EngineJob& job) {
  ASSIGN_OR_RETURN(const Mapping mapping, Mapping::create(job.engine.parallel));
  return local_world(mapping.world() * flags.dp.value_or(1));
}

Status check_world(const EngineFlags& flags, const EngineJob& job, int world_size) {
  ASSIGN_OR_RETURN(const Mapping mapping, Mapping::create(job.engine.parallel));
  const int needed = mapping.world() * flags.dp.value_or(1);
  const bool fits = flags.dp ? needed == world_size : world_size % needed == 0;
  if (fits) return Status::ok();
  return Status::invalid_input(fmt::format(
      "tp {} x pp {} x cp {}{} = {} ranks: {} were started", mapping.tp(), mapping.pp(),
      mapping.cp(), flags.dp ? fmt::format(" x dp {}", *flags.dp) : "", needed, world_size));
}

std::string layout_text(const EngineConfig& engine, const engine::Llm& llm) {
  const Mapping mapping = Mapping::create(engine.parallel).value();
  std::string text;
  const auto add = [&](const char* name, int size) {
    if (size > 1) text += fmt::format(" {} {}", name, size);
  };
  add("dp", llm.num_replicas());
  add("pp", mapping.pp());
  add("cp", mapping.cp());
  add(engine.parallel.enable_attention_dp ? "tp (attention DP)" : "tp", mapping.tp());
  add("ep", mapping.moe_ep());
  return text.empty() ? " one rank" : text;
}

void show_plan(const EngineJob& job, const engine::Llm& llm, double seconds) {
  fmt::print(stderr, "{} from {}:{}, {}, ready in {:.2f} s\n{}", job.model.architecture, job.folder,
             layout_text(job.engine, llm), dtype_text(job.dtype), seconds,
             engine::describe(llm.memory_plan()));
  if (llm.wide_ep() != nullptr) fmt::print(stderr, "{}", moe::describe(*llm.wide_ep()));
}

// What rank 0 does after an iteration: a line of log, metrics, and what the command wants.
IterationObserver observe_iterations(const EngineJob& job, JobMetrics* metrics,
                                     const IterationObserver& on_iteration) {
  const bool log = job.engine.print_iter_log;
  if (!log && metrics == nullptr && !on_iteration) return {};
  return [log, metrics, on_iteration](const engine::IterationInfo& info) {
    if (log) fmt::print(stderr, "{}\n", iteration_line(info));
    if (metrics != nullptr) metrics->on_iteration(info);
    if (on_iteration) on_iteration(info);
  };
}

struct EngineRun {
  const EngineBody& body;
  const IterationObserver& on_iteration;
  const std::string& metrics_file;
};

Status run_engine_rank(const EngineJob& job, ThreadPool& pool, const EngineRun& run,
                       dist::Communicator& world) {
  const auto start = std::chrono::steady_clock::now();
  engine::LlmOptions options{.folder = job.folder,
                             .model = job.model,
                             .engine = job.engine,
                             .dtype = job.dtype,
                             .device = job.device,
                             .pool = &pool,
                             .on_read_planned = {},
                             .on_read = {},
                             .on_iteration = {},
                             .statistics = job.statistics};
  options.on_statistics = [](const engine::StatisticsOutcome& outcome) {
    fmt::print(stderr, "{}\n", engine::describe(outcome));
  };
  // Ranks load side by side; the first one's bar stands for all.
  std::optional<ProgressBar> bar;
  if (world.rank() == 0) {
    options.on_read_planned = [&bar](int64_t bytes) { bar.emplace("loading", bytes, "bytes"); };
    options.on_read = [&bar](int64_t bytes) { bar->add(bytes); };
  }
  std::unique_ptr<JobMetrics> metrics;
  if (world.rank() == 0) {
    if (!run.metrics_file.empty()) {
      ASSIGN_OR_RETURN(metrics, JobMetrics::create(run.metrics_file));
    }
    options.on_iteration = observe_iterations(job, metrics.get(), run.on_iteration);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<engine::Llm> llm,
                   engine::Llm::create(std::move(options), world));
  bar.reset();
  RETURN_IF_ERROR(world.barrier());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (world.rank() == 0) show_plan(job, *llm, seconds.count());
  RETURN_IF_ERROR(run.body(job, *llm, world));
  RETURN_IF_ERROR(llm->finish_statistics());
  if (metrics != nullptr) RETURN_IF_ERROR(metrics->end());
  const engine::StatisticsOutcome* outcome = llm->statistics();
  return outcome == nullptr ? Status::ok() : outcome->status;
}

// finish() for worlds of several processes: one of them speaks.
void finish_as(const Status& status, bool speaks) {
  if (!status.is_ok() && !speaks) throw CLI::RuntimeError(status.exit_code());
  finish(status);
}

}  // namespace

std::string model_folder(const EngineFlags& flags) {
  if (!flags.model_path.empty()) return flags.model_path;
  if (!flags.model.empty()) return flags.model;
  return is_directory(kEmbeddedModel) ? kEmbeddedModel
                                      : join_path(WIDEEP_SOURCE_DIR, kEmbeddedModel);
}

void add_override_flags(CLI::App& command, EngineOverrides& flags) {
  command.add_option("--tp,--tp_size", flags.tp, "tensor_parallel_size");
  command.add_option("--pp,--pp_size", flags.pp, "pipeline_parallel_size");
  command.add_option("--cp,--cp_size", flags.cp, "context_parallel_size");
  command.add_option("--moe_tp", flags.moe_tp, "moe_tensor_parallel_size");
  command.add_option("--ep,--ep_size", flags.ep, "moe_expert_parallel_size");
  command.add_option("--cluster_size", flags.cluster, "moe_cluster_parallel_size");
  command.add_option("--gpus_per_node", flags.gpus_per_node, "gpus_per_node");
  command.add_option("--max_batch_size", flags.max_batch_size, "max_batch_size");
  command.add_option("--max_num_tokens", flags.max_num_tokens, "max_num_tokens");
  command.add_option("--max_seq_len", flags.max_seq_len, "max_seq_len");
  command.add_option("--kv_cache_free_gpu_mem_fraction", flags.kv_cache_free_gpu_mem_fraction,
                     "kv_cache_config.free_gpu_memory_fraction");
  command.add_flag_callback(
      "--enable_attention_dp", [&flags] { flags.enable_attention_dp = true; },
      "enable_attention_dp: true");
  command.add_flag_callback(
      "--enable_chunked_prefill", [&flags] { flags.enable_chunked_prefill = true; },
      "enable_chunked_prefill: true");
  const std::map<std::string, LoadFormat> formats = {{"auto", LoadFormat::kAuto},
                                                     {"dummy", LoadFormat::kDummy}};
  command.add_option("--load_format", flags.load_format, "load_format")
      ->transform(CLI::CheckedTransformer(formats, CLI::ignore_case));
}

void add_model_flags(CLI::App& command, EngineFlags& flags) {
  command.add_option("--model", flags.model,
                     "Folder of the model; default: the embedded models/dsv3-tiny");
  command.add_option("--model_path", flags.model_path,
                     "Folder of the model, where --model is only its name");
}

void add_metrics_flag(CLI::App& command, EngineFlags& flags) {
  command.add_option("--metrics_file", flags.metrics_file,
                     "Keep metrics in this file while the job runs, for wideep eplb watch and "
                     "Prometheus (docs/metrics.md)");
}

void add_engine_flags(CLI::App& command, EngineFlags& flags) {
  add_model_flags(command, flags);
  command.add_option("--config,--extra_llm_api_options", flags.config,
                     "Configuration (YAML); flags go over it");
  command
      .add_option(
          "--dtype", flags.dtype,
          "Arithmetic of linear weights, and KV cache: auto | fp8 | bf16 | fp32; auto: fp32 "
          "for models in fp32, fp8 on GPUs for checkpoints in FP8, else bf16. The KV cache "
          "is bf16 with fp8")
      ->check(CLI::IsMember({"auto", "fp8", "bf16", "fp32"}));
  command
      .add_option("--device", flags.device,
                  "Where to compute: cpu, cuda, or auto: cuda where there is a GPU")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  command
      .add_option("--world", flags.world,
                  "Ranks: local (threads of this process), mpi (processes of mpirun), or auto: mpi "
                  "under mpirun")
      ->check(CLI::IsMember({"auto", "local", "mpi"}));
  command.add_option("--dp,--dp_size", flags.dp, "Replicas of the model that share the requests")
      ->check(CLI::Range(1, 1024));
  command.add_option("--threads", flags.threads, "Threads of this process; default: its cores")
      ->check(CLI::Range(1, 4096));
  add_override_flags(command, flags.overrides);
}

Result<EngineJob> read_engine_job(const EngineFlags& flags) {
  EngineJob job;
  job.folder = model_folder(flags);
  ASSIGN_OR_RETURN(job.model, read_model_config(job.folder));
  ASSIGN_OR_RETURN(job.engine, load_engine_config(flags.config, flags.overrides, &job.model));
  RETURN_IF_ERROR(engine::check_engine_can(job.engine));
  ASSIGN_OR_RETURN(job.device, engine::choose_device(flags.device));
  ASSIGN_OR_RETURN(job.dtype, choose_dtype(flags.dtype, job.model, job.device));
  ASSIGN_OR_RETURN(job.statistics, engine::statistics_from_environment());
  return job;
}

bool run_ranks(const EngineFlags& flags, const RankBody& body) {
  std::optional<Place> place = value_or_finish(find_mpi(flags));
  const Result<EngineJob> job = read_engine_job(flags);
  if (!place) {
    finish(job.status());
    place = Place{value_or_finish(make_local(flags, *job)), 1};
  }
  dist::World& world = place->world;
  const bool speaks = world.holds_rank_zero();
  Status status = job.status();
  if (status.is_ok()) status = check_world(flags, *job, world.size());
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int threads =
      flags.threads > 0 ? flags.threads : std::max(1, cores / place->processes_on_host);
  ThreadPool pool(status.is_ok() ? threads : 1);
  const Status result = world.run([&](dist::Communicator& communicator) {
    return status.is_ok() ? body(*job, pool, communicator) : status;
  });
  // The same on every rank, so no rank is to blame.
  finish_as(status, speaks);
  finish_as(result, speaks);
  return speaks;
}

bool run_engine(const EngineFlags& flags, const EngineBody& body,
                const IterationObserver& on_iteration) {
  const EngineRun run{body, on_iteration, flags.metrics_file};
  return run_ranks(flags, [&](const EngineJob& job, ThreadPool& pool, dist::Communicator& world) {
    return run_engine_rank(job, pool, run, world);
  });
}

}  // namespace wideep::cli
