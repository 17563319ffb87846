#include "moe/bench_routing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "base/random.h"
#include "base/share.h"
#include "base/text.h"
#include "eplb/distinct_sampler.h"
#include "eplb/load.h"
#include "eplb/workload.h"

namespace wideep::moe {
namespace {

// First coordinate of every generator, so that no two purposes share a sequence.
enum Purpose : uint64_t { kOrder = 1, kTokens, kDeck };

// The exponent of "zipf" or "zipf:S".
std::optional<double> zipf_exponent(const std::string& skew) {
  if (skew == "zipf") return 1.0;
  constexpr std::string_view kPrefix = "zipf:";
  if (!skew.starts_with(kPrefix)) return std::nullopt;
  return parse_double(std::string_view(skew).substr(kPrefix.size()));
}

// Uniform for exponent 0.
eplb::Load zipf_load(const BenchRoutingOptions& options, double exponent) {
  constexpr double kMost = 1 << 20;  // tokens of the first expert
  eplb::Load load;
  load.num_experts = options.num_experts;
  load.top_k = options.top_k;
  load.layers = options.layers;
  std::vector<int32_t> order(static_cast<size_t>(options.num_experts));
  for (const int layer : options.layers) {
    std::iota(order.begin(), order.end(), 0);
    Random random(options.seed, {kOrder, static_cast<uint64_t>(layer)});
    shuffle(random, std::span(order));
    for (const int32_t place : order) {
      const double share = std::pow(place + 1, -exponent);
      load.tokens.push_back(std::max<int64_t>(1, std::llround(kMost * share)));
    }
  }
  return load;
}

// Those rows, as the load of the layers asked for.
eplb::Load pick_rows(const eplb::Load& load, const std::vector<int>& rows,
                     const BenchRoutingOptions& options) {
  eplb::Load picked;
  picked.num_experts = options.num_experts;
  picked.top_k = options.top_k;
  picked.layers = options.layers;
  for (const int row : rows) {
    const auto tokens = load.row(row);
    picked.tokens.insert(picked.tokens.end(), tokens.begin(), tokens.end());
    picked.tokens.resize(picked.tokens.size() +
                         static_cast<size_t>(options.num_experts - load.num_experts));
  }
  return picked;
}

// Exchanges experts between tokens until no token has one twice. experts: [tokens, top_k] in random
// order. Few exchanges are needed where there are many more experts than top_k; where there are
// hardly more, some tokens may be left with one twice.
void make_distinct(Random& random, std::span<int32_t> experts, int top_k) {
  const auto token_of = [&](size_t pair) {
    return experts.subspan(pair / static_cast<size_t>(top_k) * static_cast<size_t>(top_k),
                           static_cast<size_t>(top_k));
  };
  size_t tries = 100 * experts.size();
  for (size_t pair = 0; pair < experts.size(); ++pair) {
    const std::span<int32_t> own = token_of(pair);
    for (; std::ranges::count(own, experts[pair]) > 1 && tries > 0; --tries) {
      const size_t other = random.below(experts.size());
      if (std::ranges::count(token_of(other), experts[pair]) > 0) continue;
      if (std::ranges::count(own, experts[other]) > 0) continue;
      std::swap(experts[pair], experts[other]);
    }
  }
}

}  // namespace

Result<BenchRouting> BenchRouting::create(BenchRoutingOptions options) {
  CHECK(options.top_k <= options.num_experts && !options.layers.empty());
  BenchRouting routing(std::move(options));
  const BenchRoutingOptions& asked = routing.options_;
  const bool is_zipf = asked.skew == "zipf" || asked.skew.starts_with("zipf:");
  if (!is_zipf && asked.skew != "uniform") {
    RETURN_IF_ERROR(routing.read_recorded());
    return routing;
  }
  if (!asked.skew_layers.empty()) {
    return Status::invalid_input(
        fmt::format("--skew_layers: --skew {} has no recorded layers", asked.skew));
  }
  const std::optional<double> exponent =
      is_zipf ? zipf_exponent(asked.skew) : std::optional<double>(0);
  if (!exponent || !(*exponent >= 0 && *exponent <= 10)) {
    return Status::invalid_input(
        fmt::format("--skew {}: must be zipf:S with S in 0 to 10", asked.skew));
  }
  routing.workload_ = zipf_load(asked, *exponent);
  return routing;
}

Status BenchRouting::read_recorded() {
  ASSIGN_OR_RETURN(const eplb::LoadFormat format, eplb::load_format(options_.skew));
  is_traced_ = format == eplb::LoadFormat::kTrace;
  eplb::WorkloadOptions how;
  how.num_ranks = options_.num_ranks;
  how.seed = options_.seed;
  ASSIGN_OR_RETURN(const eplb::Workload recorded, eplb::read_workload({options_.skew}, how));
  const eplb::Load& load = recorded.load;
  // The last experts may not occur in a trace.
  const bool fits = is_traced_ ? load.num_experts <= options_.num_experts
                               : load.num_experts == options_.num_experts;
  if (!fits) {
    return Status::invalid_input(fmt::format("--skew {}: {} experts: the model has {}",
                                             options_.skew, load.num_experts,
                                             options_.num_experts));
  }
  if (load.top_k != 0 && load.top_k != options_.top_k) {
    return Status::invalid_input(fmt::format("--skew {}: {} experts a token: the model has {}",
                                             options_.skew, load.top_k, options_.top_k));
  }
  ASSIGN_OR_RETURN(rows_, choose_rows(load.layers));
  for (const int row : rows_) recorded_layers_.push_back(load.layers[row]);
  const auto pick = [&](const eplb::Load& all) { return pick_rows(all, rows_, options_); };
  workload_ = pick(load);
  for (const eplb::Load& batch : recorded.batches) workload_.batches.push_back(pick(batch));
  return Status::ok();
}

Result<std::vector<int>> BenchRouting::choose_rows(const std::vector<int>& recorded) const {
  std::vector<int> rows;
  const auto count = std::ssize(options_.layers);
  if (options_.skew_layers.empty()) {
    // The middles of equal parts.
    for (int64_t i = 0; i < count; ++i) {
      rows.push_back(static_cast<int>((2 * i + 1) * std::ssize(recorded) / (2 * count)));
    }
    return rows;
  }
  if (std::ssize(options_.skew_layers) != count) {
    return Status::invalid_input(fmt::format("--skew_layers: {} layers: --layers is {}",
                                             options_.skew_layers.size(), count));
  }
  for (const int layer : options_.skew_layers) {
    const auto row = std::ranges::find(recorded, layer);
    if (row == recorded.end()) {
      return Status::invalid_input(fmt::format("--skew_layers {}: {} has layers {} to {}", layer,
                                               options_.skew, recorded.front(), recorded.back()));
    }
    rows.push_back(static_cast<int>(row - recorded.begin()));
  }
  return rows;
}

Result<BenchRouting::Batch> BenchRouting::draw(int64_t batch, int rank, int tokens) const {
  if (is_traced_) return draw_traced(batch, rank, tokens);
  const std::vector<eplb::Load>& batches = workload_.batches;
  const eplb::Load& load =
      batches.empty() ? workload_.load : batches[static_cast<size_t>(batch) % batches.size()];
  Batch drawn;
  for (int i = 0; i < load.num_layers(); ++i) {
    const auto sampler = eplb::DistinctSampler::create(load.row(i), options_.top_k);
    if (!sampler.is_ok())
      return sampler.status().prefixed(fmt::format("--skew {}: ", options_.skew));
    Random random(options_.seed, {kTokens, static_cast<uint64_t>(batch), static_cast<uint64_t>(i),
                                  static_cast<uint64_t>(rank)});
    drawn.emplace_back(static_cast<size_t>(tokens) * static_cast<size_t>(options_.top_k));
    sampler->draw(random, tokens, drawn.back());
  }
  return drawn;
}

Result<BenchRouting::Batch> BenchRouting::draw_traced(int64_t batch, int rank, int tokens) const {
  eplb::BatchOptions how;
  how.num_ranks = options_.num_ranks;
  how.tokens_per_rank = tokens;
  how.num_experts = options_.num_experts;
  how.seed = options_.seed;
  ASSIGN_OR_RETURN(const eplb::BatchSource source, eplb::BatchSource::open({options_.skew}, how));
  const auto share = static_cast<size_t>(tokens) * static_cast<size_t>(options_.top_k);
  Batch drawn;
  std::vector<int> experts;  // of all ranks' tokens, rank by rank
  for (const int row : rows_) {
    source.token_experts(batch, row, tokens * options_.num_ranks, experts);
    CHECK_EQ(experts.size(), share * static_cast<size_t>(options_.num_ranks));
    const auto own = std::span(experts).subspan(static_cast<size_t>(rank) * share, share);
    drawn.emplace_back(own.begin(), own.end());
  }
  return drawn;
}

std::vector<int32_t> balanced_experts(const BenchRoutingOptions& options, int64_t batch, int rank,
                                      int tokens) {
  // All ranks' pairs, dealt to the ranks in turn and on each to its experts in turn, and shuffled.
  const int num_ranks = options.num_ranks;
  const int share = tokens * options.top_k;
  Random random(options.seed, {kDeck, static_cast<uint64_t>(batch)});
  std::vector<int32_t> deck;
  std::vector<uint64_t> first(static_cast<size_t>(num_ranks));
  for (uint64_t& place : first) place = random.below(static_cast<uint64_t>(options.num_experts));
  for (int64_t i = 0; i < int64_t{share} * num_ranks; ++i) {
    const int target = static_cast<int>(i % num_ranks);
    const Share experts = share_of(options.num_experts, num_ranks, target);
    const uint64_t place = first[static_cast<size_t>(target)]++;
    deck.push_back(experts.begin +
                   static_cast<int32_t>(place % static_cast<uint64_t>(experts.size())));
  }
  shuffle(random, std::span(deck));
  make_distinct(random, deck, options.top_k);
  const auto own = std::span(deck).subspan(static_cast<size_t>(rank) * static_cast<size_t>(share),
                                           static_cast<size_t>(share));
  return {own.begin(), own.end()};
}

}  // namespace wideep::moe
