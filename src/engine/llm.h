// Llm, the front door of the engine: a model folder, a configuration and a world of ranks become
// something that answers requests.
//
//   create   on every rank: reads config.json, tokenizer.json (where there is one) and this rank's
//            weights, agrees on the size of the KV cache, takes all memory
//   run      on every rank; rank 0 of a replica brings the queue that requests are submitted to
//
// The world may be several replicas (data parallelism): each is an engine of its own, and the
// caller splits requests over their leaders. The engine owns memory, schedulers and the model;
// callers own the queue and learn nothing of ranks but which of them leads.
//
// On CPUs tokens of a request are the same in any batch, with any chunking and after any
// preemption, and in any layout up to the rounding of sums over ranks. On GPUs sums may be cut
// otherwise in another batch: where two tokens are about as likely, another may follow.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/dtype.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "config/engine_config.h"
#include "config/mapping.h"
#include "config/model_config.h"
#include "dist/communicator.h"
#include "dist/groups.h"
#include "engine/memory_plan.h"
#include "engine/rank_device.h"
#include "engine/replica.h"
#include "engine/request.h"
#include "engine/request_queue.h"
#include "engine/statistics_options.h"
#include "engine/statistics_recorder.h"
#include "models/model.h"
#include "models/weight_source.h"
#include "tokenizer/tokenizer.h"

namespace wideep::engine {

struct LlmOptions {
  std::string folder;  // of the model
  ModelConfig model;   // its config.json
  EngineConfig engine;
  // Of linear weights, see ModelOptions. The KV cache is kF32 with kF32, else kBF16.
  DType dtype = DType::kBF16;
  DeviceKind device = DeviceKind::kCpu;
  ThreadPool* pool = nullptr;  // shared by the ranks of a process; outlives the Llm
  // Before weights are read, with the bytes that this rank reads in all; then after each read.
  std::function<void(int64_t bytes)> on_read_planned = {};
  models::ReadProgress on_read = {};
  std::function<void(const IterationInfo&)> on_iteration = {};  // on leaders
  // Count routed experts; that of the world's rank 0 holds for all.
  std::optional<StatisticsOptions> statistics = std::nullopt;
  // On the world's rank 0 when they were written, which may be during run().
  std::function<void(const StatisticsOutcome&)> on_statistics = {};
};

class Llm {
 public:
  // Collective over the world, which outlives the Llm.
  static Result<std::unique_ptr<Llm>> create(LlmOptions options, dist::Communicator& world);

  // Serves until the queue is closed and every request is answered. Collective over the replica;
  // the leader passes the queue, the others nullptr. May be called again: the KV cache keeps the
  // blocks that it has.
  Result<RunStats> run(RequestQueue* queue) { return replica_->run(queue); }

  // Writes statistics whose window has not ended. Collective over the world, when nothing more will
  // run; an error is one of the world, that of writing is in the outcome.
  Status finish_statistics() { return statistics_ ? statistics_->finish() : Status::ok(); }
  // On the world's rank 0 once they were written, else nullptr.
  const StatisticsOutcome* statistics() const {
    return statistics_ ? statistics_->outcome() : nullptr;
  }

  bool is_leader() const { return groups_.model->rank() == 0; }
  int replica() const { return groups_.replica; }
  int num_replicas() const { return groups_.num_replicas; }
  // Backend WideEP on this rank; null with CUTLASS.
  const moe::WideEp* wide_ep() const { return model_->wide_ep(); }
  const MemoryPlan& memory_plan() const { return memory_plan_; }  // of this rank
  const RequestLimits& limits() const { return limits_; }
  // On leaders of models that have one, else nullptr.
  const tokenizer::Tokenizer* tokenizer() const { return tokenizer_ ? &*tokenizer_ : nullptr; }
  // Ends the sequence: what generation_config.json says, else config.json.
  const std::vector<int>& eos_token_ids() const { return eos_token_ids_; }

 private:
  Llm(LlmOptions options, Mapping mapping);

  Status load_tokenizer();
  Status load_model();
  Status plan_memory(dist::Communicator& world);
  Status make_recorder(dist::Communicator& world);
  Status make_replica();
  int max_seq_len() const;

  LlmOptions options_;
  Mapping mapping_;
  std::unique_ptr<RankDevice> device_;
  dist::Groups groups_;
  std::optional<tokenizer::Tokenizer> tokenizer_;
  std::vector<int> eos_token_ids_;
  std::unique_ptr<models::Model> model_;
  MemoryPlan memory_plan_;
  RequestLimits limits_;
  std::unique_ptr<StatisticsRecorder> statistics_;  // null: off
  std::unique_ptr<Replica> replica_;
};

// What of a configuration this engine cannot do, as one kInvalidInput naming the keys.
Status check_engine_can(const EngineConfig& config);

}  // namespace wideep::engine
