// The online balancer's planner on a thread of its own, so that no iteration waits for a plan.
//
// Every rank has one and gives it the same counts in the same order, so all of them come to the
// same decisions; when each is ready differs, which is why the ranks agree on how many iterations'
// decisions they act on (wide_ep.h).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/status.h"
#include "eplb/online.h"

namespace wideep::moe {

// What a layer's turn came to.
struct LayerDecision {
  int layer_index = 0;
  eplb::LayerUpdate update;
  std::vector<int> slots;       // [num_slots] the placement from now on
  std::vector<int64_t> quotas;  // [num_slots] for it
  double seconds = 0;           // of planning
};

struct OnlinePlannerOptions {
  eplb::Shape shape;
  std::vector<int> layers;              // decoder layers, ascending
  std::vector<std::vector<int>> slots;  // [layers][num_slots] to start from
  int layer_updates_per_iter = 1;
  eplb::OnlineOptions online;
  // In place of the policy, for tests: the placement of a layer after an iteration. It is called
  // for every layer and iteration.
  std::function<std::vector<int>(int layer_index, int64_t iteration, std::span<const int> slots)>
      forced = {};
};

class OnlinePlanner {
 public:
  explicit OnlinePlanner(OnlinePlannerOptions options);
  ~OnlinePlanner();
  OnlinePlanner(const OnlinePlanner&) = delete;
  OnlinePlanner& operator=(const OnlinePlanner&) = delete;

  // counts [layers, num_experts] of the next iteration, over all ranks. Does not wait.
  void record(std::vector<int64_t> counts);

  // Iterations whose decisions are there.
  int64_t num_planned() const;

  // The decisions of the iterations [taken so far, upto), upto <= num_planned(). An error of the
  // planner is the result from its iteration on.
  Result<std::vector<LayerDecision>> take(int64_t upto);

 private:
  struct Planned {
    Status status;
    std::vector<LayerDecision> decisions;
  };
  void run();
  Planned plan(int64_t iteration, std::span<const int64_t> counts);
  Result<LayerDecision> decide(int layer_index, int64_t iteration);

  const OnlinePlannerOptions options_;
  const eplb::UpdateSchedule schedule_;
  std::vector<eplb::LayerBalancer> balancers_;  // [layers], the thread's
  std::vector<std::vector<int>> forced_slots_;  // [layers], the thread's, where forced

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::deque<std::vector<int64_t>> counts_;
  std::deque<Planned> planned_;  // not taken yet
  int64_t num_planned_ = 0;
  int64_t num_taken_ = 0;
  std::thread thread_;
};

}  // namespace wideep::moe
