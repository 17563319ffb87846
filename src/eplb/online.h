// The policy of the online balancer, pure: which layers may change in which iteration, what load
// they are planned for, and whether a change is worth its transfers. The engine and `wideep eplb
// replay` run the same code; every rank runs it on the same integers and so gets the same plan
// without a broadcast.
//
// The shape of it is TensorRT-LLM's online mode (a decayed sum of counts a layer, a few layers an
// iteration in turn). It differs in what happens at a layer's turn: the new plan starts from the
// old one and moves at most max_transfers slots, and only where the gain stands out from the noise
// of the batches themselves.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/status.h"
#include "eplb/planner.h"
#include "eplb/replica_choice.h"
#include "eplb/types.h"

namespace wideep::eplb {

// Whose turn it is. The layers are in n = ceil(L / layer_updates_per_iter) interleaved groups,
// layer l in group l mod n; one group an iteration. Where all groups have the same size, a cycle
// ends with an iteration of rest.
class UpdateSchedule {
 public:
  // num_layers >= 1; layer_updates_per_iter 0: never.
  UpdateSchedule(int num_layers, int layer_updates_per_iter);

  // Iterations of a cycle; every layer has one turn in it. 0: never.
  int period() const { return period_; }
  // iteration >= 0, counted from the first with updates on. layer_index in [0, num_layers).
  bool is_turn(int layer_index, int64_t iteration) const;
  // The layers of an iteration, ascending; at most layer_updates_per_iter of them.
  std::vector<int> turns(int64_t iteration) const;

 private:
  int num_layers_;
  int num_groups_ = 0;
  int period_ = 0;
};

// A layer's load: load = load x decay + counts at every iteration, in fixed point, so that it is
// the same on every rank and machine; and how noisy it is. Tokens of one text go to the same
// experts, so that counts vary more from batch to batch than independent tokens would: the
// design effect says how many times more (variance), and everything that asks "is this noise?"
// asks with it.
class DecayedLoad {
 public:
  // decay in [0, 1]; 1: a plain sum.
  DecayedLoad(int num_experts, double decay);

  // counts: [num_experts], summed over all ranks; each < 2^31. O(num_experts).
  void add(std::span<const int64_t> counts);
  // What was added so far becomes old; what comes is recent.
  void close_window();
  // How many times the noise between two samples of one load the old and the recent load differ
  // (mean square); about 1 where the load stayed the same, 0 where either is empty.
  double shift() const;
  void forget_old();
  void clear();

  // [num_experts] in units of 1 / kUnit token.
  static constexpr int64_t kUnit = 256;
  std::vector<int64_t> tokens() const;

  // The independent tokens that would be as little noisy as this load: of a plain sum of n tokens,
  // n / design effect; of a decayed one, (sum of w n)^2 / (sum of w^2 n) / design effect, over the
  // iterations' weights w and tokens n.
  double effective_tokens() const;
  // >= 1. From differences between successive iterations, which a shift of the load does not
  // inflate for long.
  double design_effect() const;

 private:
  // A decayed sum and the two moments of its weights.
  struct Sum {
    std::vector<int64_t> tokens;  // [num_experts], 1 / kUnit
    double weighted = 0;          // sum of w n
    double squared = 0;           // sum of w^2 n

    double effective_tokens() const { return squared > 0 ? weighted * weighted / squared : 0; }
  };
  void decay(Sum& sum) const;
  void add_difference(std::span<const int64_t> counts, int64_t batch);

  static constexpr int kDecayBits = 20;
  int64_t decay_;  // fixed point, 2^-kDecayBits
  Sum old_;
  Sum recent_;
  std::vector<int64_t> last_;  // [num_experts] counts of the last iteration with tokens
  int64_t last_batch_ = 0;
  double difference_ = 0;         // decayed sum of differences, 1 each for independent tokens
  double difference_weight_ = 0;  // decayed number of them
};

// The mean of the largest of n standard normal numbers (Blom 1958); 0 for n <= 1. The imbalance of
// a batch of t tokens a rank that is balanced in expectation is about this / sqrt(t).
double expected_max_normal(int n);

struct OnlineOptions {
  PlanOptions plan;  // num_slots, ep_size, algorithm, max_transfers, expert_bytes
  double decay = 0.95;
  // At a turn, what was recorded before the last turn is forgotten where it differs from what was
  // recorded since by more than so many times the noise (variance); 0: always, as TensorRT-LLM
  // does. Without this a plan after a shift is made for a mixture that neither was nor comes.
  double shift_factor = 3;
  // A plan is judged by the batches that it would have served: the last `window` iterations, each
  // with the replica choice in use. It is taken where max/mean falls on average by more than
  // min_gain and by more than noise_factor standard errors. With round robin max/mean of the load
  // must also fall by more than noise_factor times its sampling noise, expected_max_normal(R) /
  // sqrt(effective tokens a rank): else the planner chases the noise of the load, which is in the
  // batches too.
  int window = 16;
  double min_gain = 0.01;
  double noise_factor = 2;
  // In use: round robin counts as the even split, quota and per_batch as the best split.
  ReplicaChoice replica_choice = ReplicaChoice::kRoundRobin;
};

// What a layer's turn decided.
struct LayerUpdate {
  bool moved = false;
  bool shifted = false;  // the load differs from the one before the last turn, which is forgotten
  int transfers = 0;     // slots that get their expert from another rank
  int64_t bytes = 0;     // transfers x expert_bytes
  double before = 1;     // max/mean with the slots as they were, averaged over the window
  double after = 1;      // the same with the slots proposed; before where none were
  double threshold = 0;  // gain that was needed
};

// One layer's balancer. Not thread-safe; layers are independent.
class LayerBalancer {
 public:
  // slots: [num_slots] the assignment to start from.
  LayerBalancer(int layer, const Shape& shape, std::span<const int> slots,
                const OnlineOptions& options);

  // Every iteration: counts [num_experts] over all ranks. Iterations without tokens do not count.
  void record(std::span<const int64_t> counts);

  // At the layer's turn. Keeps the slots where less than two batches were recorded, where no plan
  // could gain enough, or where the planner's does not. Errors are those of make_plan.
  Result<LayerUpdate> take_turn();

  std::span<const int> slots() const { return slots_; }
  // The quotas [num_slots] of the current load and slots; they may change without any transfer.
  std::vector<int64_t> quotas() const { return plan_quotas(shape_, slots_, load_.tokens()); }

 private:
  Result<LayerUpdate> plan_update();
  double load_ratio(std::span<const int> slots) const;
  double load_noise() const;
  std::vector<double> window_ratios(std::span<const int> slots) const;

  int layer_;
  Shape shape_;
  OnlineOptions options_;
  std::vector<int> slots_;
  DecayedLoad load_;
  std::deque<std::vector<int64_t>> window_;  // the last batches, oldest first
  int batches_since_turn_ = 0;
};

}  // namespace wideep::eplb
