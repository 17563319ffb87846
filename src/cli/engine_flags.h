// The flags of every command that runs a model: which model, over which ranks, in which world; and
// the way from these flags to engines that are ready on all ranks.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>

#include "base/dtype.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "config/engine_config.h"
#include "config/model_config.h"
#include "dist/communicator.h"
#include "engine/llm.h"

namespace wideep::cli {

struct EngineFlags {
  std::string model;       // folder; "": the embedded model
  std::string model_path;  // the folder, where `model` is only a name
  std::string config;      // YAML file
  std::string dtype = "auto";
  std::string device = "auto";
  std::string world = "auto";
  std::optional<int> dp;  // replicas
  int threads = 0;        // of this process; 0: its cores
  std::string metrics_file;
  EngineOverrides overrides;
};

// The flags that stand for keys of the configuration.
void add_override_flags(CLI::App& command, EngineOverrides& overrides);
// --model and --model_path.
void add_model_flags(CLI::App& command, EngineFlags& flags);
// --metrics_file, for commands that use run_engine().
void add_metrics_flag(CLI::App& command, EngineFlags& flags);
// --model and --model_path, those of the configuration, and the rest.
void add_engine_flags(CLI::App& command, EngineFlags& flags);

// The folder that the flags mean.
std::string model_folder(const EngineFlags& flags);

// What the flags come to, the same on every rank.
struct EngineJob {
  std::string folder;
  ModelConfig model;
  EngineConfig engine;
  DType dtype = DType::kBF16;
  engine::DeviceKind device = engine::DeviceKind::kCpu;
  std::optional<engine::StatisticsOptions> statistics;  // from the environment of this process
};

// kNotFound, kInvalidInput: all that is wrong with the model's config.json or the configuration.
Result<EngineJob> read_engine_job(const EngineFlags& flags);

// Called on every rank. The pool is shared by the ranks of this process.
using RankBody =
    std::function<Status(const EngineJob&, ThreadPool& pool, dist::Communicator& world)>;

// Makes the world and runs `body` on its ranks. Ends the command as finish() does where a rank
// fails: with one message, from the process that holds rank 0. Returns whether this process does.
bool run_ranks(const EngineFlags& flags, const RankBody& body);

// Called on every rank with its engine.
using EngineBody = std::function<Status(const EngineJob&, engine::Llm&, dist::Communicator& world)>;

// Called on the world's rank 0 after each of its iterations.
using IterationObserver = std::function<void(const engine::IterationInfo&)>;

// run_ranks() with the model loaded on all ranks and the allocation plan shown on standard error.
bool run_engine(const EngineFlags& flags, const EngineBody& body,
                const IterationObserver& on_iteration = {});

}  // namespace wideep::cli
