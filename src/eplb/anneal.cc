#include "eplb/anneal.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "eplb/evaluate.h"
#include "eplb/split.h"

namespace wideep::eplb {
namespace {

// Steps x slots x batches of one layer: a few seconds on one core.
constexpr int64_t kWork = 100'000'000;
constexpr int64_t kMinSteps = 1'000;
constexpr int64_t kMaxSteps = 20'000;
constexpr int64_t kStepsWithoutBatches = 100'000;
constexpr double kBatchTemperature =
    5e-4;  // first temperature in max/mean; it falls linearly to zero
constexpr double kEvenTemperature = 0.4;  // without batches: of the excess to begin with
constexpr double kGoodEnough = 5e-4;      // over the perfect 1
constexpr double kInfinity = std::numeric_limits<double>::infinity();

int64_t total_of(const std::vector<int64_t>& batch) {
  return std::accumulate(batch.begin(), batch.end(), int64_t{0});
}

class Annealing {
 public:
  Annealing(const DraftPlacement& start, const Batches& batches, const AnnealOptions& options)
      : shape_(start.shape()),
        options_(options),
        random_(options.seed),
        current_(start),
        most_components_(options.keep_connected ? count_components(shape_, start.slots())
                                                : shape_.num_ranks) {
    for (const std::vector<int64_t>& batch : batches) {
      const int64_t total = total_of(batch);
      if (total == 0) continue;
      batches_.push_back(&batch);
      per_token_.push_back(static_cast<double>(shape_.num_ranks) / static_cast<double>(total));
    }
  }

  std::vector<int> run() {
    std::vector<int> best_slots = current_.slots();
    double value = excess(kInfinity);
    double best = value;
    const double first = batches_.empty() ? kEvenTemperature * value : kBatchTemperature;
    const int64_t num_steps = count_steps();
    for (int64_t i = 0; i < num_steps && best > kGoodEnough; ++i) {
      const double temperature =
          first * (1 - static_cast<double>(i) / static_cast<double>(num_steps));
      const Step step = draw();
      if (!is_legal(step)) continue;
      // Metropolis' rule, drawn first so that the evaluation can stop at the value not to exceed.
      const double limit = value - temperature * std::log1p(-random_.uniform());
      const int old = take(step);
      const double changed = excess(limit);
      if (changed > limit || count_components_if_needed() > most_components_) {
        take({step.slot, step.other, old});
        continue;
      }
      value = changed;
      if (value >= best) continue;
      best = value;
      best_slots = current_.slots();
    }
    return best_slots;
  }

 private:
  // Exchange of `slot` and `other`, or, where other is -1, `expert` over what is in `slot`.
  struct Step {
    int slot;
    int other;
    int expert;
  };

  int64_t count_steps() const {
    if (batches_.empty()) return kStepsWithoutBatches;
    const auto num_batches = static_cast<int64_t>(batches_.size());
    return std::clamp(kWork / (num_batches * shape_.num_slots), kMinSteps, kMaxSteps);
  }

  // What the placement has over the perfect 1, or infinity as soon as it is certain to be over the
  // limit.
  double excess(double limit) const {
    const double even_weight = batches_.empty() ? 1 : options_.even_weight;
    const double even = even_weight * (current_.max_over_mean() - 1);
    if (batches_.empty()) return even;
    const auto num_batches = static_cast<double>(batches_.size());
    const double most = (limit - even) * num_batches;
    if (most < 0) return kInfinity;
    Splitter splitter(shape_, current_.slots());
    double sum = 0;
    for (size_t b = 0; b < batches_.size(); ++b) {
      sum += static_cast<double>(splitter.best_max(*batches_[b])) * per_token_[b] - 1;
      if (sum > most) return kInfinity;
    }
    return sum / num_batches + even;
  }

  int count_components_if_needed() const {
    return options_.keep_connected ? count_components(shape_, current_.slots()) : 0;
  }

  Step draw() {
    const int slot = static_cast<int>(random_.below(shape_.num_slots));
    if (random_.below(3) == 0) {
      return {slot, -1, static_cast<int>(random_.below(shape_.num_experts))};
    }
    return {slot, static_cast<int>(random_.below(shape_.num_slots)), 0};
  }

  bool is_legal(const Step& step) const {
    const int expert = current_.expert(step.slot);
    const int rank = shape_.rank_of(step.slot);
    if (step.other < 0)
      return current_.replicas(expert) >= 2 && current_.held(rank, step.expert) == 0;
    const int other_rank = shape_.rank_of(step.other);
    return rank != other_rank && current_.held(other_rank, expert) == 0 &&
           current_.held(rank, current_.expert(step.other)) == 0;
  }

  // Returns the expert that was in the slot: with it the step can be taken back.
  int take(const Step& step) {
    const int old = current_.expert(step.slot);
    if (step.other < 0) {
      current_.overwrite(step.slot, step.expert);
    } else {
      current_.swap(step.slot, step.other);
    }
    return old;
  }

  const Shape shape_;
  const AnnealOptions options_;
  Random random_;
  DraftPlacement current_;
  const int most_components_;
  std::vector<const std::vector<int64_t>*> batches_;  // those with tokens
  std::vector<double> per_token_;                     // what a token of each adds to max/mean
};

}  // namespace

double mean_best_split(const Shape& shape, std::span<const int> slots, const Batches& batches) {
  if (batches.empty()) return 1;
  Splitter splitter(shape, slots);
  double sum = 0;
  for (const std::vector<int64_t>& batch : batches) {
    const int64_t total = total_of(batch);
    sum += total == 0 ? 1
                      : static_cast<double>(splitter.best_max(batch)) * shape.num_ranks /
                            static_cast<double>(total);
  }
  return sum / static_cast<double>(batches.size());
}

std::vector<int> anneal_slots(const DraftPlacement& start, const Batches& batches,
                              const AnnealOptions& options) {
  return Annealing(start, batches, options).run();
}

}  // namespace wideep::eplb
