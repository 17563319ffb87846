#include "eplb/online.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "eplb/evaluate.h"
#include "eplb/incremental.h"
#include "eplb/split.h"

namespace wideep::eplb {

UpdateSchedule::UpdateSchedule(int num_layers, int layer_updates_per_iter)
    : num_layers_(num_layers) {
  CHECK(num_layers >= 1 && layer_updates_per_iter >= 0);
  if (layer_updates_per_iter == 0) return;
  num_groups_ = (num_layers + layer_updates_per_iter - 1) / layer_updates_per_iter;
  period_ = num_groups_ + (num_layers % num_groups_ == 0 ? 1 : 0);
}

bool UpdateSchedule::is_turn(int layer_index, int64_t iteration) const {
  return period_ > 0 && iteration % period_ == layer_index % num_groups_;
}

std::vector<int> UpdateSchedule::turns(int64_t iteration) const {
  std::vector<int> layers;
  if (period_ == 0 || iteration % period_ >= num_groups_) return layers;
  for (int l = static_cast<int>(iteration % period_); l < num_layers_; l += num_groups_) {
    layers.push_back(l);
  }
  return layers;
}

DecayedLoad::DecayedLoad(int num_experts, double decay)
    : decay_(std::llround(std::ldexp(decay, kDecayBits))), last_(num_experts) {
  CHECK(decay >= 0 && decay <= 1);
  old_.tokens.resize(num_experts);
  recent_.tokens.resize(num_experts);
}

void DecayedLoad::decay(Sum& sum) const {
  for (int64_t& tokens : sum.tokens) {
    // Wider than 64 bits: 20 iterations of 2^31 counts x kUnit x 2^20.
    tokens = static_cast<int64_t>(
        (static_cast<__int128>(tokens) * decay_ + (1 << (kDecayBits - 1))) >> kDecayBits);
  }
  const double decay = std::ldexp(static_cast<double>(decay_), -kDecayBits);
  sum.weighted *= decay;
  sum.squared *= decay * decay;
}

void DecayedLoad::add(std::span<const int64_t> counts) {
  CHECK_EQ(counts.size(), last_.size());
  decay(old_);
  decay(recent_);
  int64_t batch = 0;
  for (size_t e = 0; e < counts.size(); ++e) {
    recent_.tokens[e] += counts[e] * kUnit;
    batch += counts[e];
  }
  recent_.weighted += static_cast<double>(batch);
  recent_.squared += static_cast<double>(batch);
  if (batch > 0) add_difference(counts, batch);
}

namespace {

// The squared distance of the shares of two samples of n_a and n_b tokens, in units of what
// independent tokens of one load would have on average: (1 / n_a + 1 / n_b) sum of p (1 - p).
double scaled_distance(std::span<const int64_t> a, double n_a, std::span<const int64_t> b,
                       double n_b) {
  double sum_a = 0, sum_b = 0;
  for (size_t e = 0; e < a.size(); ++e) {
    sum_a += static_cast<double>(a[e]);
    sum_b += static_cast<double>(b[e]);
  }
  double distance = 0, squares = 0;
  for (size_t e = 0; e < a.size(); ++e) {
    const double p_a = static_cast<double>(a[e]) / sum_a, p_b = static_cast<double>(b[e]) / sum_b;
    const double p = (p_a * n_a + p_b * n_b) / (n_a + n_b);
    distance += (p_a - p_b) * (p_a - p_b);
    squares += p * p;
  }
  return squares < 1 ? distance / ((1 / n_a + 1 / n_b) * (1 - squares)) : 0;
}

}  // namespace

void DecayedLoad::add_difference(std::span<const int64_t> counts, int64_t batch) {
  const double decay = std::ldexp(static_cast<double>(decay_), -kDecayBits);
  if (last_batch_ > 0) {
    difference_ = difference_ * decay + scaled_distance(counts, static_cast<double>(batch), last_,
                                                        static_cast<double>(last_batch_));
    difference_weight_ = difference_weight_ * decay + 1;
  }
  std::copy(counts.begin(), counts.end(), last_.begin());
  last_batch_ = batch;
}

void DecayedLoad::close_window() {
  for (size_t e = 0; e < last_.size(); ++e) old_.tokens[e] += recent_.tokens[e];
  old_.weighted += recent_.weighted;
  old_.squared += recent_.squared;
  std::fill(recent_.tokens.begin(), recent_.tokens.end(), 0);
  recent_.weighted = recent_.squared = 0;
}

double DecayedLoad::shift() const {
  const double old_tokens = old_.effective_tokens(), recent_tokens = recent_.effective_tokens();
  if (old_tokens == 0 || recent_tokens == 0) return 0;
  return scaled_distance(old_.tokens, old_tokens, recent_.tokens, recent_tokens) / design_effect();
}

void DecayedLoad::forget_old() {
  std::fill(old_.tokens.begin(), old_.tokens.end(), 0);
  old_.weighted = old_.squared = 0;
}

void DecayedLoad::clear() {
  forget_old();
  close_window();
  forget_old();
}

std::vector<int64_t> DecayedLoad::tokens() const {
  std::vector<int64_t> tokens = old_.tokens;
  for (size_t e = 0; e < tokens.size(); ++e) tokens[e] += recent_.tokens[e];
  return tokens;
}

double DecayedLoad::effective_tokens() const {
  const double weighted = old_.weighted + recent_.weighted;
  const double squared = old_.squared + recent_.squared;
  return squared > 0 ? weighted * weighted / squared / design_effect() : 0;
}

double DecayedLoad::design_effect() const {
  return difference_weight_ > 0 ? std::max(1.0, difference_ / difference_weight_) : 1;
}

double expected_max_normal(int n) {
  if (n <= 1) return 0;
  // The quantile at (n - 3/8) / (n + 1/4), by bisection of the normal distribution function.
  const double quantile = (n - 0.375) / (n + 0.25);
  double low = 0, high = 8;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (1 - 0.5 * std::erfc(middle / std::sqrt(2.0)) < quantile ? low : high) = middle;
  }
  return low;
}

LayerBalancer::LayerBalancer(int layer, const Shape& shape, std::span<const int> slots,
                             const OnlineOptions& options)
    : layer_(layer),
      shape_(shape),
      options_(options),
      slots_(slots.begin(), slots.end()),
      load_(shape.num_experts, options.decay) {
  options_.plan.num_slots = shape.num_slots;
  options_.plan.ep_size = shape.num_ranks;
  options_.plan.threads = 1;
  options_.plan.on_layer_done = nullptr;
}

void LayerBalancer::record(std::span<const int64_t> counts) {
  load_.add(counts);
  if (std::all_of(counts.begin(), counts.end(), [](int64_t count) { return count == 0; })) return;
  window_.emplace_back(counts.begin(), counts.end());
  if (static_cast<int>(window_.size()) > options_.window) window_.pop_front();
  ++batches_since_turn_;
}

std::vector<double> LayerBalancer::window_ratios(std::span<const int> slots) const {
  std::vector<double> ratios;
  Splitter splitter(shape_, slots);
  for (const auto& tokens : window_) {
    if (options_.replica_choice == ReplicaChoice::kRoundRobin) {
      ratios.push_back(max_over_mean(even_rank_tokens(shape_, slots, tokens)));
      continue;
    }
    const int64_t sum = std::accumulate(tokens.begin(), tokens.end(), int64_t{0});
    ratios.push_back(static_cast<double>(splitter.best_max(tokens)) * shape_.num_ranks /
                     static_cast<double>(sum));
  }
  return ratios;
}

Result<LayerUpdate> LayerBalancer::take_turn() {
  const bool shifted = load_.shift() > options_.shift_factor;
  if (shifted) {
    load_.forget_old();
    while (static_cast<int>(window_.size()) > batches_since_turn_) window_.pop_front();
  }
  ASSIGN_OR_RETURN(LayerUpdate update, plan_update());
  update.shifted = shifted;
  load_.close_window();
  batches_since_turn_ = 0;
  return update;
}

namespace {

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_error(std::span<const double> values) {
  const double center = mean(values), n = static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - center) * (value - center);
  return std::sqrt(squares / (n - 1) / n);
}

}  // namespace

double LayerBalancer::load_ratio(std::span<const int> slots) const {
  return max_over_mean(even_rank_tokens(shape_, slots, load_.tokens()));
}

double LayerBalancer::load_noise() const {
  // The best split leaves nothing of an imbalance of the sum, real or noise.
  if (options_.replica_choice != ReplicaChoice::kRoundRobin) return 0;
  return options_.noise_factor * expected_max_normal(shape_.num_ranks) /
         std::sqrt(load_.effective_tokens() / shape_.num_ranks);
}

Result<LayerUpdate> LayerBalancer::plan_update() {
  LayerUpdate update;
  if (window_.size() < 2) return update;
  const std::vector<double> before = window_ratios(slots_);
  update.before = update.after = mean(before);
  const double noise = load_noise();
  if (update.before - 1 <= options_.min_gain || load_ratio(slots_) - 1 < noise) return update;
  const Load load = {
      .num_experts = shape_.num_experts, .top_k = 0, .layers = {layer_}, .tokens = load_.tokens()};
  const Plan previous = {.num_experts = shape_.num_experts,
                         .num_slots = shape_.num_slots,
                         .layer_updates_per_iter = 0,
                         .layers = {layer_},
                         .slots = slots_};
  ASSIGN_OR_RETURN(const PlanResult result, make_plan(load, options_.plan, {}, &previous));
  const auto proposed = result.plan.row(0);
  std::vector<double> gains = window_ratios(proposed);
  update.after = mean(gains);
  for (size_t i = 0; i < gains.size(); ++i) gains[i] = before[i] - gains[i];
  update.threshold = std::max(options_.min_gain, options_.noise_factor * standard_error(gains));
  if (update.before - update.after <= update.threshold ||
      (noise > 0 && load_ratio(slots_) - load_ratio(proposed) <= noise)) {
    return update;
  }
  update.moved = true;
  update.transfers = count_transfers(shape_, slots_, proposed);
  update.bytes = update.transfers * options_.plan.expert_bytes;
  slots_.assign(proposed.begin(), proposed.end());
  return update;
}

}  // namespace wideep::eplb
