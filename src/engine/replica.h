// The loop of one rank: requests in, iterations of the model, tokens out. All ranks of a replica
// run it together; rank 0 has the queue.
//
// An iteration begins with one small exchange: rank 0 tells what has come in (new sequences,
// cancels, shutdown), the attention-DP ranks tell rank 0 what they generated in the iteration
// before. So all ranks apply the same orders at the same boundary. With attention TP, CP and PP all
// ranks then plan the same batch; with attention DP each tp rank plans its own, and a second
// exchange says how many tokens each has. Ranks of the last pipeline stage sample, all of them the
// same tokens, since logits and seeds are the same; the other stages are told. While there is
// nothing to do rank 0 sleeps on its queue, and the others in the exchange.
//
// With `overlap` the host is an iteration ahead of the device: it plans and sends the next one, and
// only then takes the tokens of the one before, so that the device never waits for it.
//
// A rank that fails returns its error from run(); the world (dist/world.h) then ends the others'
// waits, so that every rank returns, rank 0 after it has told every request.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "base/stream.h"
#include "dist/groups.h"
#include "engine/frontend.h"
#include "engine/orders.h"
#include "engine/request_queue.h"
#include "engine/scheduler.h"
#include "engine/statistics_recorder.h"
#include "kernels/sampling.h"
#include "models/model.h"

namespace wideep::engine {

// An iteration of rank 0, after it has run. With attention DP each rank has a scheduler; sequences,
// tokens, waiting and pages are those of rank 0's.
struct IterationInfo {
  int64_t number = 0;  // from 0
  int num_sequences = 0;
  int num_tokens = 0;
  int64_t all_tokens = 0;  // of all attention-DP ranks
  int num_waiting = 0;
  int num_free_pages = 0;
  const moe::IterationReport* balancer = nullptr;  // of backend WideEP, for the call; else null
};

struct ReplicaOptions {
  // All of these outlive the replica.
  models::Model* model = nullptr;
  dist::Groups* groups = nullptr;
  Stream* stream = nullptr;

  bool attention_dp = false;
  bool overlap = false;  // without pipeline stages only, which must be told the tokens
  int vocab_size = 0;
  int page_size = 0;  // tokens of a page on this rank: kv_cache.page_tokens / cp
  SchedulerOptions scheduler;
  FrontendOptions frontend;                                // of rank 0; num_schedulers is set here
  std::function<void(const IterationInfo&)> on_iteration;  // of rank 0, or none
  StatisticsRecorder* statistics = nullptr;                // outlives the replica; or none
};

// Sums over the schedulers of a replica, of one run(); the same on all ranks.
struct RunStats {
  int64_t iterations = 0;
  int64_t computed_tokens = 0;  // that went through the model
  int64_t generated_tokens = 0;
  int64_t cached_tokens = 0;  // taken from the KV cache instead
  int64_t recomputed_tokens = 0;
  int64_t preemptions = 0;
};

class Replica {
 public:
  // Takes the memory of KV cache and logits and gives the model its part.
  static Result<std::unique_ptr<Replica>> create(ReplicaOptions options);

  // Serves until the queue is closed and every request is answered. Collective over the replica;
  // `queue` on its rank 0, nullptr on the others. May be called again: what is cached stays.
  Result<RunStats> run(RequestQueue* queue);

 private:
  explicit Replica(ReplicaOptions options);

  Status serve(Frontend* frontend);
  // Rank 0's orders to all, all ranks' outputs to rank 0.
  Status exchange(Orders& orders, Frontend* frontend);
  Status gather_outputs(std::span<const std::byte> own, std::span<const int64_t> bytes,
                        Frontend* frontend);
  void apply(Orders orders);
  // After build_batch(): tokens of every rank of the tp group, with attention DP; false where none
  // has any.
  Result<bool> exchange_tokens();
  // Sends an iteration to the device.
  Status begin_iteration(const Iteration& iteration);
  // Takes the tokens of the oldest iteration under way.
  Status complete_iteration(Frontend* frontend);
  void build_batch(const Iteration& iteration);
  void copy_pages(std::span<const PageCopy> copies);
  void sample(const Iteration& iteration);
  Status take_tokens();
  bool is_last_stage() const;
  void report(const Iteration& iteration);
  Result<RunStats> gather_stats(const RunStats& before);
  RunStats own_stats() const;

  // Does this rank speak for its scheduler? One rank of those that plan the same does.
  bool speaks() const;
  int scheduler_index() const;

  ReplicaOptions options_;
  dist::Groups& groups_;
  Scheduler scheduler_;
  models::KvSpec kv_spec_;
  Buffer kv_memory_;  // [layers, pages, page_size, kv_heads, row_dim]
  Buffer logits_;     // [max_batch_size, vocab_size] kF32
  models::Batch batch_;
  std::unique_ptr<kernels::Sampler> sampler_;
  std::deque<int> under_way_;  // iterations, the oldest first: tokens that each wants
  std::vector<int> tokens_;    // sampled
  std::vector<kernels::SampleRequest> sample_requests_;
  std::vector<TokenOutput> outputs_;  // not with rank 0 yet
  int64_t iterations_ = 0;
  int64_t computed_tokens_ = 0;
  int64_t generated_tokens_ = 0;
};

}  // namespace wideep::engine
