// Serves random traffic on the embedded model for as long as asked, with experts on the move, and
// holds every token to what one rank said before: no wrong token, no growth of memory. Then, where
// asked, one rank kills itself in the middle of serving: the job must end, with its name.
//
//   soak --seconds 60 --ranks 4                                           # ranks are threads
//   mpirun -n 4 soak --world mpi --seconds 1800 --delays --kill_rank 2    # processes
//
// --delays stops each process at random times, as a busy host does. Exit code 0 where all went
// well; of a killed rank, mpirun's.
#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/device.h"
#include "base/file.h"
#include "cli/gather.h"
#include "cli/worlds.h"
#include "dist/world.h"
#include "engine/dataset_maker.h"
#include "engine/llm.h"
#include "eplb/types.h"
#include "tests/soak_memory.h"
#include "tests/soak_traffic.h"

namespace wideep {
namespace {

using engine::DeviceKind;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = Traffic::Clock;

constexpr std::array kDomains = {"chinese",  "english", "french",  "german",
                                 "japanese", "python",  "russian", "spanish"};
constexpr int kPromptsPerDomain = 8;
constexpr int kPromptTokens = 96;  // at most
constexpr int kAnswerTokens = 24;  // at most
constexpr int kBatchSize = 8;      // of a rank
constexpr int kSpareSlots = 2;     // of a rank
// On a GPU sums may be cut otherwise in another batch, or in a graph. In bf16 1 answer in 20 goes
// another way for that, by margins up to 0.32, experts moving or not.
constexpr float kGpuMargin = 0.5F;
constexpr int kGpuAnswersOfDiverged = 10;  // 1 in so many at most
// A run of the engine; memory is looked at after each.
constexpr seconds kLongestSpan{30};
// Memory that is taken once the time over this is over is not growth.
constexpr int kWarmUpShare = 5;
constexpr seconds kBeforeKill{3};
constexpr seconds kAfterKill{60};
constexpr int kLongestStop = 300;  // ms
constexpr int kLongestBetweenStops = 3000;

struct Flags {
  int seconds = 60;
  std::string world = "local";
  int ranks = 4;
  std::string device = "cpu";
  std::string dtype = "bf16";
  uint64_t seed = 1;
  std::optional<float> margin;
  std::optional<int> kill_rank;
  bool delays = false;
  bool still = false;
  bool eager = false;
};

struct Job {
  Flags flags;
  std::string folder;
  ModelConfig model;
  EngineConfig engine;
  DType dtype = DType::kBF16;
  DeviceKind device = DeviceKind::kCpu;
};

// What rank 0 saw of the engine.
struct EngineCounts {
  int64_t iterations = 0;
  int64_t moved = 0;    // experts
  int64_t commits = 0;  // of layers
  int64_t preemptions = 0;
};

// On CPUs a token's bits depend on nothing but its sequence, so prompts are cut and reused, and
// sequences preempted. On a GPU a whole prompt attends in another way than its pieces would.
std::string engine_yaml(const Flags& flags, bool on_gpu, int num_experts, int ranks) {
  const int num_slots = eplb::slots_with_spares(num_experts, ranks, kSpareSlots);
  return fmt::format(
      "enable_attention_dp: true\n"
      "max_batch_size: {}\n"
      "max_num_tokens: {}\n"
      "max_seq_len: {}\n"
      "enable_chunked_prefill: {}\n"
      "kv_cache_config: {{max_tokens: {}, tokens_per_block: {}, enable_block_reuse: {}}}\n"
      "moe_config:\n"
      "  backend: WideEP\n"
      "  max_num_tokens: {}\n"
      "  load_balancer:\n"
      "    num_slots: {}\n"
      "    replica_choice: per_batch\n"
      "    combine: exact\n"
      "{}{}",
      kBatchSize, on_gpu ? 512 : 48, kPromptTokens + kAnswerTokens + 8, !on_gpu,
      on_gpu ? 4096 : 200, on_gpu ? 32 : 8, !on_gpu, 2 * kBatchSize * ranks, num_slots,
      flags.still ? "" : "    layer_updates_per_iter: 2\n    decay: 0.9\n",
      flags.eager ? "cuda_graph_config: null\n" : "");
}

Result<Job> make_job(const Flags& flags, int ranks) {
  const std::map<std::string, DType> dtypes = {
      {"fp32", DType::kF32}, {"bf16", DType::kBF16}, {"fp8", DType::kF8E4M3}};
  Job job;
  job.flags = flags;
  job.folder = join_path(WIDEEP_SOURCE_DIR, "models/dsv3-tiny");
  ASSIGN_OR_RETURN(job.model, read_model_config(job.folder));
  ASSIGN_OR_RETURN(job.device, engine::choose_device(flags.device));
  job.dtype = dtypes.at(flags.dtype);
  const bool on_gpu = job.device == DeviceKind::kCuda;
  if (!on_gpu && job.dtype == DType::kF8E4M3) {
    return Status::invalid_input("--dtype fp8: needs --device cuda");
  }
  ASSIGN_OR_RETURN(job.engine,
                   parse_engine_config(engine_yaml(flags, on_gpu, job.model.moe.num_experts, ranks),
                                       "soak.yaml", {.tp = ranks, .ep = ranks}, &job.model));
  return job;
}

// What one rank makes of the prompts.
Result<std::vector<engine::Evaluation>> evaluate_alone(
    const Job& job, std::span<const engine::EvaluationPrompt> prompts, ThreadPool& pool) {
  engine::EvaluationJob one;
  one.folder = job.folder;
  one.model = job.model;
  one.engine.parallel.enable_attention_dp = true;
  one.engine.moe.backend = MoeBackend::kWideEp;
  one.engine.moe.load_balancer.emplace();
  one.engine.moe.load_balancer->num_slots = job.model.moe.num_experts + kSpareSlots;
  one.engine.moe.load_balancer->combine = CombineMode::kExact;
  one.engine.max_num_tokens = kPromptTokens;
  one.engine.cuda_graph.reset();
  one.dtype = job.dtype;
  one.device = job.device;
  one.records_routing = false;
  one.num_greedy = kAnswerTokens;
  ASSIGN_OR_RETURN(dist::World world, dist::World::local(1));
  std::vector<engine::Evaluation> answers;
  RETURN_IF_ERROR(world.run([&](dist::Communicator& alone) -> Status {
    ASSIGN_OR_RETURN(answers, engine::evaluate(one, prompts, pool, alone));
    return Status::ok();
  }));
  return answers;
}

Result<std::vector<Reference>> make_references(const Job& job, ThreadPool& pool) {
  std::vector<engine::TextList> lists;
  for (const char* domain : kDomains) {
    const std::string path =
        join_path(WIDEEP_SOURCE_DIR, fmt::format("data/domains/{}.json", domain));
    ASSIGN_OR_RETURN(const std::string file, read_file(path));
    ASSIGN_OR_RETURN(std::vector<std::string> texts, engine::parse_texts(file, path));
    lists.push_back({path, std::move(texts)});
  }
  ASSIGN_OR_RETURN(const auto tokenizer, tokenizer::Tokenizer::load(job.folder));
  const engine::DatasetPlan plan{.num_requests = kPromptsPerDomain * std::ssize(kDomains),
                                 .input = {.mean = 40, .stdev = 25},
                                 .output = {},
                                 .seed = job.flags.seed,
                                 .random_start = true};
  ASSIGN_OR_RETURN(auto entries, engine::text_dataset(plan, lists, tokenizer));
  std::vector<engine::EvaluationPrompt> prompts;
  for (engine::DatasetEntry& entry : entries) {
    const auto i = std::ssize(prompts);
    if (entry.input_ids.size() > kPromptTokens) entry.input_ids.resize(kPromptTokens);
    prompts.push_back({fmt::format("{} {}", kDomains[i / kPromptsPerDomain], i % kPromptsPerDomain),
                       std::move(entry.input_ids)});
  }
  ASSIGN_OR_RETURN(std::vector<engine::Evaluation> answers, evaluate_alone(job, prompts, pool));
  std::vector<Reference> references;
  for (size_t i = 0; i < prompts.size(); ++i) {
    references.push_back({static_cast<int>(i) / kPromptsPerDomain, std::move(prompts[i].token_ids),
                          std::move(answers[i])});
  }
  return references;
}

void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

// One rank of the soak.
struct Rank {
  const Job& job;
  dist::Communicator& world;
  engine::Llm& llm;
  const MemoryProbe& probe;
  Traffic* traffic;      // of rank 0
  EngineCounts& counts;  // kept by rank 0
};

std::string counts_text(const Rank& rank) {
  const TrafficCounts& traffic = rank.traffic->counts();
  const EngineCounts& engine = rank.counts;
  return fmt::format(
      "{} answers and {} cancelled, {} tokens, {} phases, {} iterations, {} experts moved in {} "
      "commits, {} preemptions{}",
      traffic.answers, traffic.cancelled, traffic.tokens, traffic.phases, engine.iterations,
      engine.moved, engine.commits, engine.preemptions,
      traffic.diverged > 0 ? fmt::format(", {} went another way at margins up to {:.4f}",
                                         traffic.diverged, traffic.widest_margin)
                           : "");
}

// A run of the engine over random traffic.
Status serve(const Rank& rank, seconds span) {
  if (rank.traffic == nullptr) return rank.llm.run(nullptr).status();
  engine::RequestQueue queue;
  std::thread driver([&] { rank.traffic->drive(queue, Clock::now() + span); });
  const Result<engine::RunStats> stats = rank.llm.run(&queue);
  driver.join();
  RETURN_IF_ERROR(stats.status());
  rank.counts.preemptions += stats->preemptions;
  return rank.traffic->status();
}

// Since `start`, by rank 0's clock.
Result<seconds> agree_on_time(const Rank& rank, Clock::time_point start) {
  int64_t count = std::chrono::duration_cast<seconds>(Clock::now() - start).count();
  RETURN_IF_ERROR(rank.world.broadcast(std::as_writable_bytes(std::span(&count, 1)), 0));
  return seconds(count);
}

Status soak(const Rank& rank) {
  const seconds all(rank.job.flags.seconds);
  const seconds warm_up = all / kWarmUpShare;
  const seconds span = std::clamp(warm_up, seconds(1), kLongestSpan);
  const Clock::time_point start = Clock::now();
  std::vector<Memory> before;
  std::vector<Memory> now;
  for (;;) {
    ASSIGN_OR_RETURN(const seconds passed, agree_on_time(rank, start));
    if (before.empty() && passed >= warm_up) before = now;
    if (passed >= all) break;
    RETURN_IF_ERROR(serve(rank, std::min(span, all - passed)));
    ASSIGN_OR_RETURN(const Memory own, rank.probe.look());
    ASSIGN_OR_RETURN(now, cli::gather(rank.world, std::span(&own, 1)));
    if (rank.traffic == nullptr) continue;
    say(fmt::format("{:5} s: {}; {}", (Clock::now() - start) / seconds(1), counts_text(rank),
                    memory_text(now)));
  }
  if (rank.traffic == nullptr) return Status::ok();
  RETURN_IF_ERROR(check_growth(before, now));
  const TrafficCounts& traffic = rank.traffic->counts();
  if (traffic.diverged * kGpuAnswersOfDiverged > traffic.answers) {
    return Status::aborted(fmt::format("{} of {} answers went another way: more than 1 in {}",
                                       traffic.diverged, traffic.answers, kGpuAnswersOfDiverged));
  }
  say(fmt::format("no wrong token in {} s: {}; after the warm-up {}, at the end {}",
                  all / seconds(1), counts_text(rank), memory_text(before), memory_text(now)));
  return Status::ok();
}

// Ends in an error on every rank that is left.
Status lose_rank(const Rank& rank, int lost) {
  if (rank.world.rank() == lost) {
    std::thread([lost] {
      std::this_thread::sleep_for(kBeforeKill);
      say(fmt::format("rank {} kills itself", lost));
      raise(SIGKILL);
    }).detach();
  }
  RETURN_IF_ERROR(serve(rank, kAfterKill));
  return Status::aborted(fmt::format("rank {} killed itself, and the others went on", lost));
}

Status run_rank(const Job& job, ThreadPool& pool, std::optional<int> gpu,
                dist::Communicator& world) {
  ASSIGN_OR_RETURN(const MemoryProbe probe, MemoryProbe::open(pool, gpu));
  std::unique_ptr<Traffic> traffic;
  EngineCounts counts;
  engine::LlmOptions options;
  options.folder = job.folder;
  options.model = job.model;
  options.engine = job.engine;
  options.dtype = job.dtype;
  options.device = job.device;
  options.pool = &pool;
  if (world.rank() == 0) {
    ASSIGN_OR_RETURN(std::vector<Reference> references, make_references(job, pool));
    say(fmt::format("{} prompts on {} ranks", references.size(), world.size()));
    traffic = std::make_unique<Traffic>(
        TrafficOptions{.references = std::move(references),
                       .num_domains = static_cast<int>(kDomains.size()),
                       .most_in_flight = kBatchSize * world.size(),
                       .margin = job.flags.margin.value_or(gpu ? kGpuMargin : 0),
                       .seed = job.flags.seed});
    options.on_iteration = [&counts](const engine::IterationInfo& info) {
      ++counts.iterations;
      counts.moved += info.balancer->migration.transfers;
      counts.commits += info.balancer->migration.commits;
    };
  }
  ASSIGN_OR_RETURN(const auto llm, engine::Llm::create(std::move(options), world));
  const Rank rank{job, world, *llm, probe, traffic.get(), counts};
  RETURN_IF_ERROR(soak(rank));
  return job.flags.kill_rank ? lose_rank(rank, *job.flags.kill_rank) : Status::ok();
}

// A child that stops this process now and then; it dies with it.
Status start_delays(uint64_t seed) {
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return Status::io("--delays: cannot fork");
  if (child > 0) return Status::ok();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Random random(seed, {static_cast<uint64_t>(parent)});
  // Another parent: it died before the system was told.
  while (getppid() == parent) {
    std::this_thread::sleep_for(milliseconds(random.below(kLongestBetweenStops)));
    kill(parent, SIGSTOP);
    std::this_thread::sleep_for(milliseconds(random.below(kLongestStop)));
    kill(parent, SIGCONT);
  }
  _exit(0);
}

Result<dist::World> make_world(const Flags& flags) {
  return flags.world == "local" ? cli::local_world(flags.ranks) : cli::mpi_world();
}

Status run_world(const Flags& flags, dist::World& world) {
  ASSIGN_OR_RETURN(const Job job, make_job(flags, world.size()));
  if (flags.kill_rank && *flags.kill_rank >= world.size()) {
    return Status::invalid_input(
        fmt::format("--kill_rank {}: there are {} ranks", *flags.kill_rank, world.size()));
  }
  ASSIGN_OR_RETURN(const auto launch, dist::launch_from_environment());
  const bool is_mpi = flags.world == "mpi" && launch;
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  ThreadPool pool(std::max(1, cores / (is_mpi ? launch->local_size : 1)));
  return world.run([&](dist::Communicator& ranks) {
    std::optional<int> gpu;
    if (job.device == DeviceKind::kCuda) {
      const int place = is_mpi ? launch->local_rank : ranks.rank();
      gpu = place % static_cast<int>(device_report().devices.size());
    }
    return run_rank(job, pool, gpu, ranks);
  });
}

// Returns the exit code.
int run(const Flags& flags) {
  // Before there are threads, and before MPI: a child has neither.
  if (const Status status = flags.delays ? start_delays(flags.seed) : Status::ok();
      !status.is_ok()) {
    fmt::print(stderr, "error: {}\n", status.message());
    return 1;
  }
  Result<dist::World> world = make_world(flags);
  const Status status = world.is_ok() ? run_world(flags, *world) : world.status();
  if (!status.is_ok() && (!world.is_ok() || world->holds_rank_zero())) {
    fmt::print(stderr, "error: {}\n", status.message());
  }
  return status.exit_code();
}

void add_flags(CLI::App& app, Flags& flags) {
  app.add_option("--seconds", flags.seconds, "Of traffic")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--world", flags.world, "Ranks: local (threads) or mpi (processes of mpirun)")
      ->capture_default_str()
      ->check(CLI::IsMember({"local", "mpi"}));
  app.add_option("--ranks", flags.ranks, "Of a local world")
      ->capture_default_str()
      ->check(CLI::Range(2, 64));
  app.add_option("--device", flags.device, "cpu or cuda")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--dtype", flags.dtype, "bf16, fp32 on CPUs, fp8 on GPUs")
      ->capture_default_str()
      ->check(CLI::IsMember({"bf16", "fp32", "fp8"}));
  app.add_option("--seed", flags.seed, "Of prompts, traffic and delays")->capture_default_str();
  app.add_option("--margin", flags.margin,
                 "An answer may go another way where the best two logits of one rank are closer "
                 "than this; default: 0, on GPUs 0.5")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--kill_rank", flags.kill_rank,
                 "After the traffic this rank kills itself while more is served; needs processes")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--still", flags.still, "Experts stay where they are");
  app.add_flag("--eager", flags.eager, "No graphs on GPUs");
  app.add_flag("--delays", flags.delays,
               "Stop each process at random times, for up to 300 ms; needs processes");
}

}  // namespace
}  // namespace wideep

int main(int argc, char** argv) {
  CLI::App app("Serves random traffic while experts move, and checks every token");
  wideep::Flags flags;
  wideep::add_flags(app, flags);
  CLI11_PARSE(app, argc, argv);
  if (flags.world == "local" && (flags.delays || flags.kill_rank)) {
    fmt::print(stderr, "error: --delays and --kill_rank need --world mpi\n");
    return 2;
  }
  return wideep::run(flags);
}
