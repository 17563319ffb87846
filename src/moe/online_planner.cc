#include "moe/online_planner.h"

#include <chrono>
#include <exception>
#include <utility>

namespace wideep::moe {

OnlinePlanner::OnlinePlanner(OnlinePlannerOptions options)
    : options_(std::move(options)),
      schedule_(static_cast<int>(options_.layers.size()), options_.layer_updates_per_iter) {
  CHECK_EQ(options_.layers.size(), options_.slots.size());
  for (size_t i = 0; i < options_.layers.size(); ++i) {
    balancers_.emplace_back(options_.layers[i], options_.shape, options_.slots[i], options_.online);
  }
  if (options_.forced) forced_slots_ = options_.slots;
  thread_ = std::thread([this] { run(); });
}

OnlinePlanner::~OnlinePlanner() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void OnlinePlanner::record(std::vector<int64_t> counts) {
  {
    const std::lock_guard lock(mutex_);
    counts_.push_back(std::move(counts));
  }
  wake_.notify_all();
}

int64_t OnlinePlanner::num_planned() const {
  const std::lock_guard lock(mutex_);
  return num_planned_;
}

Result<std::vector<LayerDecision>> OnlinePlanner::take(int64_t upto) {
  std::vector<LayerDecision> decisions;
  const std::lock_guard lock(mutex_);
  CHECK(upto <= num_planned_);
  for (; num_taken_ < upto; ++num_taken_) {
    Planned& planned = planned_.front();
    if (!planned.status.is_ok()) return planned.status;
    for (LayerDecision& decision : planned.decisions) decisions.push_back(std::move(decision));
    planned_.pop_front();
  }
  return decisions;
}

void OnlinePlanner::run() {
  std::unique_lock lock(mutex_);
  for (int64_t iteration = 0;; ++iteration) {
    wake_.wait(lock, [&] { return stop_ || !counts_.empty(); });
    if (stop_) return;
    const std::vector<int64_t> counts = std::move(counts_.front());
    counts_.pop_front();
    lock.unlock();
    Planned planned = plan(iteration, counts);
    lock.lock();
    planned_.push_back(std::move(planned));
    ++num_planned_;
  }
}

OnlinePlanner::Planned OnlinePlanner::plan(int64_t iteration, std::span<const int64_t> counts) {
  Planned planned;
  const auto num_experts = static_cast<size_t>(options_.shape.num_experts);
  const int num_layers = static_cast<int>(balancers_.size());
  try {
    for (int l = 0; l < num_layers; ++l) {
      balancers_[l].record(counts.subspan(l * num_experts, num_experts));
    }
    for (int l = 0; l < num_layers; ++l) {
      if (!options_.forced && !schedule_.is_turn(l, iteration)) continue;
      Result<LayerDecision> decision = decide(l, iteration);
      if (!decision.is_ok()) {
        planned.status = decision.status();
        return planned;
      }
      planned.decisions.push_back(*std::move(decision));
    }
  } catch (const std::exception& error) {
    planned.status = Status::unavailable(error.what());
  }
  return planned;
}

Result<LayerDecision> OnlinePlanner::decide(int layer_index, int64_t iteration) {
  const auto begin = std::chrono::steady_clock::now();
  LayerDecision decision;
  decision.layer_index = layer_index;
  if (options_.forced) {
    std::vector<int>& slots = forced_slots_[layer_index];
    std::vector<int> next = options_.forced(layer_index, iteration, slots);
    decision.update.moved = next != slots;
    slots = next;
    decision.slots = std::move(next);
  } else {
    eplb::LayerBalancer& balancer = balancers_[layer_index];
    ASSIGN_OR_RETURN(decision.update, balancer.take_turn());
    decision.slots.assign(balancer.slots().begin(), balancer.slots().end());
    if (options_.online.replica_choice == eplb::ReplicaChoice::kQuota) {
      decision.quotas = balancer.quotas();
    }
  }
  decision.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return decision;
}

}  // namespace wideep::moe
