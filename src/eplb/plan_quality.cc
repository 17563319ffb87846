#include "eplb/plan_quality.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/parallel.h"
#include "eplb/evaluate.h"
#include "eplb/sampler.h"
#include "eplb/split.h"

namespace wideep::eplb {
namespace {

Status check(const Load& load, const Plan& plan, const QualityOptions& options) {
  if (options.ep_size < 1 || plan.num_slots % options.ep_size != 0) {
    return Status::invalid_input(fmt::format("num_slots {} is not divisible by ep_size {}",
                                             plan.num_slots, options.ep_size));
  }
  if (plan.num_experts != load.num_experts) {
    return Status::invalid_input(fmt::format("the plan is for {} experts, the load has {}",
                                             plan.num_experts, load.num_experts));
  }
  for (const int layer : load.layers) {
    if (std::binary_search(plan.layers.begin(), plan.layers.end(), layer)) continue;
    return Status::invalid_input(
        fmt::format("the plan has no layer {}, which the load has (its layers are {} to {})", layer,
                    plan.layers.front(), plan.layers.back()));
  }
  return Status::ok();
}

// Adds one batch's ratios.
void add_batch(const Shape& shape, std::span<const int> slots, std::span<const int64_t> tokens,
               Splitter& splitter, LayerQuality& quality) {
  int64_t total = 0;
  for (const int64_t t : tokens) total += t;
  quality.even += max_over_mean(even_rank_tokens(shape, slots, tokens));
  quality.optimal += total == 0 ? 1
                                : static_cast<double>(splitter.best_max(tokens)) * shape.num_ranks /
                                      static_cast<double>(total);
}

LayerQuality evaluate_layer(int layer, const Shape& shape, std::span<const int> slots,
                            std::span<const int64_t> tokens, const QualityOptions& options) {
  LayerQuality quality;
  quality.layer = layer;
  quality.lower_bound = even_lower_bound(shape, tokens);
  quality.duplicates = count_duplicates(shape, slots);
  quality.components = count_components(shape, slots);
  quality.even = quality.optimal = 0;
  Splitter splitter(shape, slots);
  if (options.tokens_per_rank == 0) {
    add_batch(shape, slots, tokens, splitter, quality);
    return quality;
  }
  std::vector<int64_t> counts(shape.num_experts);
  for (int batch = 0; batch < options.num_batches; ++batch) {
    Random random(options.seed, {static_cast<uint64_t>(layer), static_cast<uint64_t>(batch)});
    sample_counts(random, tokens, options.tokens_per_rank * options.top_k * shape.num_ranks,
                  counts);
    add_batch(shape, slots, counts, splitter, quality);
  }
  quality.even /= options.num_batches;
  quality.optimal /= options.num_batches;
  return quality;
}

}  // namespace

Result<PlanQuality> evaluate_plan(const Load& load, const Plan& plan,
                                  const QualityOptions& options) {
  RETURN_IF_ERROR(check(load, plan, options));
  const Shape shape = plan.shape(options.ep_size);
  PlanQuality quality;
  quality.layers.resize(load.num_layers());
  parallel_for(load.num_layers(), options.threads, [&](int i) {
    const int layer = load.layers[i];
    const auto found = std::lower_bound(plan.layers.begin(), plan.layers.end(), layer);
    const auto slots = plan.row(static_cast<int>(found - plan.layers.begin()));
    quality.layers[i] = evaluate_layer(layer, shape, slots, load.row(i), options);
  });
  quality.mean_even = quality.mean_optimal = 0;
  for (const LayerQuality& layer : quality.layers) {
    quality.mean_even += layer.even / load.num_layers();
    quality.mean_optimal += layer.optimal / load.num_layers();
    quality.worst_even = std::max(quality.worst_even, layer.even);
    quality.worst_optimal = std::max(quality.worst_optimal, layer.optimal);
  }
  return quality;
}

}  // namespace wideep::eplb
