#include "eplb/batch_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "base/text.h"
#include "eplb/load.h"
#include "eplb/sampler.h"

namespace wideep::eplb {
namespace {

constexpr std::array<std::string_view, 2> kBatchingNames = {"mixed", "sequence"};
constexpr int kDefaultTopK = 8;

// First coordinate of every generator, so that no two purposes share a sequence.
enum Purpose : uint64_t { kCounts = 1, kRanks, kTokens, kTokenExperts };

// Adds `tokens` tokens, each on a uniform rank of [begin, end), to every num_experts-th count:
// halves the ranks by binomial draws until one draw a token is cheaper.
void deal(Random& random, int64_t tokens, int begin, int end, size_t num_experts, int64_t* counts) {
  constexpr int64_t kTokensPerBinomial = 32;  // a binomial draw takes about as long
  if (tokens == 0) return;
  const int num_ranks = end - begin;
  if (num_ranks == 1) {
    counts[static_cast<size_t>(begin) * num_experts] += tokens;
  } else if (tokens <= kTokensPerBinomial * num_ranks) {
    for (int64_t t = 0; t < tokens; ++t) {
      const auto rank = static_cast<size_t>(begin) + random.below(static_cast<uint64_t>(num_ranks));
      ++counts[rank * num_experts];
    }
  } else {
    const int middle = begin + num_ranks / 2;
    const int64_t left = random.binomial(tokens, static_cast<double>(middle - begin) / num_ranks);
    deal(random, left, begin, middle, num_experts, counts);
    deal(random, tokens - left, middle, end, num_experts, counts);
  }
}

// totals: [num_experts]; counts: [num_ranks, num_experts], zero on entry.
void deal_to_ranks(Random& random, std::span<const int64_t> totals, int num_ranks,
                   std::span<int64_t> counts) {
  for (size_t e = 0; e < totals.size(); ++e) {
    deal(random, totals[e], 0, num_ranks, totals.size(), counts.data() + e);
  }
}

// `out.size()` different experts, one after the other in proportion to the load; cumulative:
// [num_experts] running sums. -1 where fewer experts have load.
void draw_distinct(Random& random, std::span<const int64_t> cumulative, std::span<int> out) {
  std::fill(out.begin(), out.end(), -1);
  const auto total = static_cast<uint64_t>(cumulative.back());
  // Draws that hit a chosen expert are repeated; where a few experts have nearly all the load that
  // could go on for long, and the heaviest of the rest are as good.
  int tries = 64 * static_cast<int>(out.size());
  size_t chosen = 0;
  const auto is_chosen = [&](int expert) {
    return std::find(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(chosen), expert) !=
           out.begin() + static_cast<std::ptrdiff_t>(chosen);
  };
  while (total > 0 && chosen < out.size() && tries-- > 0) {
    const auto draw = static_cast<int64_t>(random.below(total));
    const int expert = static_cast<int>(
        std::upper_bound(cumulative.begin(), cumulative.end(), draw) - cumulative.begin());
    if (!is_chosen(expert)) out[chosen++] = expert;
  }
  for (; total > 0 && chosen < out.size(); ++chosen) {
    int heaviest = -1;
    int64_t most = 0;
    for (int e = 0; e < static_cast<int>(cumulative.size()); ++e) {
      const int64_t weight = cumulative[e] - (e > 0 ? cumulative[e - 1] : 0);
      if (weight > most && !is_chosen(e)) {
        heaviest = e;
        most = weight;
      }
    }
    if (heaviest < 0) return;
    out[chosen] = heaviest;
  }
}

Result<std::vector<Trace>> open_traces(const std::vector<std::string>& paths, int num_experts) {
  for (;;) {
    std::vector<Trace> traces;
    int most = num_experts;
    for (const std::string& path : paths) {
      ASSIGN_OR_RETURN(Trace trace, Trace::open({path}, num_experts));
      most = std::max(most, trace.num_experts());
      traces.push_back(std::move(trace));
    }
    const bool agree = std::all_of(traces.begin(), traces.end(),
                                   [&](const Trace& t) { return t.num_experts() == most; });
    if (agree) return traces;
    num_experts = most;  // a text may never reach the last expert: open all with the largest
  }
}

}  // namespace

Result<Batching> parse_batching(std::string_view name) {
  for (size_t i = 0; i < kBatchingNames.size(); ++i) {
    if (name == kBatchingNames[i]) return static_cast<Batching>(i);
  }
  return Status::invalid_input(
      fmt::format("--batching {}: must be one of {}", name, fmt::join(kBatchingNames, ", ")));
}

Result<BatchSource> BatchSource::open(const std::vector<std::string>& paths,
                                      const BatchOptions& options) {
  if (paths.empty()) return Status::invalid_input("--load: needs at least one path");
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const LoadFormat format, load_format(path));
    if (format == LoadFormat::kTrace) continue;
    if (paths.size() > 1) {
      return Status::invalid_input(
          fmt::format("{}: several loads can be mixed only where all are traces (.npy)", path));
    }
    if (format == LoadFormat::kStatistics) {
      ASSIGN_OR_RETURN(Statistics statistics, read_statistics(expert_folder(path), options.window));
      return from_statistics(std::move(statistics), options);
    }
    ASSIGN_OR_RETURN(Load load, read_load(path));
    return from_load(std::move(load), options);
  }
  ASSIGN_OR_RETURN(auto traces, open_traces(paths, options.num_experts));
  return from_traces(std::move(traces), options);
}

namespace {

Status check_options(const BatchOptions& options) {
  if (options.num_ranks < 1 || options.num_ranks > 4096) {
    return Status::invalid_input(
        fmt::format("--ep_size {}: must be in 1 to 4096", options.num_ranks));
  }
  if (options.tokens_per_rank < 0 || options.tokens_per_rank > 1 << 20) {
    return Status::invalid_input(
        fmt::format("--tokens_per_rank {}: must be in 1 to {}", options.tokens_per_rank, 1 << 20));
  }
  if (options.top_k < 1 || options.top_k > 64 || options.top_k > options.num_experts) {
    return Status::invalid_input(fmt::format("--top_k {}: must be in 1 to min(64, {} experts)",
                                             options.top_k, options.num_experts));
  }
  return Status::ok();
}

// Fills in what the options leave to the source, and says where the two do not fit.
Result<BatchOptions> resolve(BatchOptions options, int num_experts, int top_k) {
  if (options.num_experts == 0) options.num_experts = num_experts;
  if (options.num_experts != num_experts) {
    return Status::invalid_input(
        fmt::format("the load has {} experts but the plan {}", num_experts, options.num_experts));
  }
  if (options.top_k == 0) options.top_k = top_k > 0 ? top_k : kDefaultTopK;
  RETURN_IF_ERROR(check_options(options));
  return options;
}

}  // namespace

Result<BatchSource> BatchSource::from_load(Load load, const BatchOptions& options) {
  ASSIGN_OR_RETURN(const BatchOptions resolved, resolve(options, load.num_experts, load.top_k));
  if (resolved.tokens_per_rank == 0) {
    return Status::invalid_input("--tokens_per_rank: needed, because a load has no batch size");
  }
  std::vector<int> layers = load.layers;
  return BatchSource(std::move(load), std::move(layers), resolved);
}

Result<BatchSource> BatchSource::from_statistics(Statistics statistics,
                                                 const BatchOptions& options) {
  ASSIGN_OR_RETURN(const BatchOptions resolved,
                   resolve(options, statistics.num_experts, statistics.top_k));
  std::vector<int> layers = statistics.layers;
  return BatchSource(std::move(statistics), std::move(layers), resolved);
}

Result<BatchSource> BatchSource::from_traces(std::vector<Trace> traces,
                                             const BatchOptions& options) {
  CHECK(!traces.empty());
  for (const Trace& trace : traces) {
    if (trace.num_layers() != traces[0].num_layers() || trace.top_k() != traces[0].top_k()) {
      return Status::invalid_input(fmt::format(
          "--load: traces of one model are needed: {} layers with top-{} and {} with top-{}",
          traces[0].num_layers(), traces[0].top_k(), trace.num_layers(), trace.top_k()));
    }
    if (trace.num_tokens() == 0) return Status::invalid_input("--load: a trace has no tokens");
  }
  ASSIGN_OR_RETURN(const BatchOptions resolved,
                   resolve(options, traces[0].num_experts(), traces[0].top_k()));
  if (resolved.top_k != traces[0].top_k()) {
    return Status::invalid_input(fmt::format("--top_k {}: the trace has {} experts a token",
                                             resolved.top_k, traces[0].top_k()));
  }
  if (resolved.tokens_per_rank == 0) {
    return Status::invalid_input("--tokens_per_rank: needed, because a trace has no batch size");
  }
  std::vector<int> layers(traces[0].num_layers());
  std::iota(layers.begin(), layers.end(), 0);
  return BatchSource(std::move(traces), std::move(layers), resolved);
}

std::span<const int64_t> BatchSource::weights(int64_t iteration, int layer_index) const {
  if (const auto* load = std::get_if<Load>(&data_)) return load->row(layer_index);
  const auto& statistics = std::get<Statistics>(data_);
  return statistics.row(static_cast<int>(iteration % statistics.num_iterations()), layer_index);
}

int64_t BatchSource::num_draws(std::span<const int64_t> weights) const {
  if (options_.tokens_per_rank == 0) {
    return std::accumulate(weights.begin(), weights.end(), int64_t{0});
  }
  return options_.tokens_per_rank * options_.num_ranks * options_.top_k;
}

void BatchSource::counts(int64_t iteration, int layer_index, bool per_rank,
                         std::vector<int64_t>& counts) const {
  const auto num_experts = static_cast<size_t>(options_.num_experts);
  counts.assign(per_rank ? options_.num_ranks * num_experts : num_experts, 0);
  if (std::holds_alternative<std::vector<Trace>>(data_)) {
    count_traces(iteration, layer_index, per_rank, counts);
    return;
  }
  const auto step = static_cast<uint64_t>(iteration), layer = static_cast<uint64_t>(layer_index);
  const auto shares = weights(iteration, layer_index);
  std::vector<int64_t> totals(shares.begin(), shares.end());
  if (options_.tokens_per_rank > 0) {
    Random random(options_.seed, {kCounts, step, layer});
    sample_counts(random, shares, num_draws(shares), totals);
  }
  if (per_rank) {
    Random random(options_.seed, {kRanks, step, layer});
    deal_to_ranks(random, totals, options_.num_ranks, counts);
  } else {
    counts = std::move(totals);
  }
}

BatchSource::Run BatchSource::draw_run(Random& random, const std::vector<Trace>& traces,
                                       int64_t size) const {
  Run run;
  run.trace = static_cast<int>(random.below(traces.size()));
  const Trace& trace = traces[run.trace];
  // A uniform token picks its text in proportion to the text's length.
  const auto token = static_cast<int64_t>(random.below(static_cast<uint64_t>(trace.num_tokens())));
  if (options_.batching == Batching::kMixed) {
    run.begin = token;
    run.size = 1;
    return run;
  }
  const auto& starts = trace.text_starts();
  const auto next = std::upper_bound(starts.begin(), starts.end(), token);
  const int64_t text_begin = *(next - 1), length = *next - text_begin;
  run.size = std::min(size, length);
  run.begin =
      text_begin + static_cast<int64_t>(random.below(static_cast<uint64_t>(length - run.size + 1)));
  return run;
}

// Calls visit(trace, token) for the first max_tokens tokens of a rank.
template <typename Visit>
void BatchSource::visit_rank(int64_t iteration, int rank, int64_t max_tokens, Visit visit) const {
  const auto& traces = std::get<std::vector<Trace>>(data_);
  // The layer is no coordinate: a rank has the same tokens in all layers.
  Random random(options_.seed,
                {kTokens, static_cast<uint64_t>(iteration), static_cast<uint64_t>(rank)});
  int64_t left = options_.tokens_per_rank;
  for (int64_t visited = 0; left > 0 && visited < max_tokens;) {
    const Run run = draw_run(random, traces, left);
    left -= run.size;
    for (int64_t i = 0; i < run.size && visited < max_tokens; ++i, ++visited) {
      visit(traces[run.trace], run.begin + i);
    }
  }
}

void BatchSource::count_traces(int64_t iteration, int layer_index, bool per_rank,
                               std::vector<int64_t>& counts) const {
  std::array<int, 64> experts;
  const int top_k = options_.top_k;
  for (int r = 0; r < options_.num_ranks; ++r) {
    int64_t* row = counts.data() + (per_rank ? static_cast<int64_t>(r) * options_.num_experts : 0);
    visit_rank(iteration, r, options_.tokens_per_rank, [&](const Trace& trace, int64_t token) {
      trace.experts(token, layer_index, experts.data());
      for (int k = 0; k < top_k; ++k) {
        if (experts[k] >= 0) ++row[experts[k]];
      }
    });
  }
}

void BatchSource::token_experts(int64_t iteration, int layer_index, int max_tokens,
                                std::vector<int>& experts) const {
  const auto top_k = static_cast<size_t>(options_.top_k);
  experts.clear();
  if (std::holds_alternative<std::vector<Trace>>(data_)) {
    const int num_ranks = std::min(options_.num_ranks, max_tokens);
    const int each = max_tokens / num_ranks;
    for (int i = 0; i < num_ranks; ++i) {
      const auto rank = static_cast<int>(int64_t{i} * options_.num_ranks / num_ranks);
      visit_rank(iteration, rank, each, [&](const Trace& trace, int64_t token) {
        experts.resize(experts.size() + top_k);
        trace.experts(token, layer_index, experts.data() + experts.size() - top_k);
      });
    }
    return;
  }
  const auto shares = weights(iteration, layer_index);
  std::vector<int64_t> cumulative(shares.size());
  std::partial_sum(shares.begin(), shares.end(), cumulative.begin());
  if (cumulative.back() == 0) return;
  Random random(options_.seed, {kTokenExperts, static_cast<uint64_t>(iteration),
                                static_cast<uint64_t>(layer_index)});
  experts.resize(static_cast<size_t>(max_tokens) * top_k);
  for (size_t i = 0; i < experts.size(); i += top_k) {
    draw_distinct(random, cumulative, std::span(experts).subspan(i, top_k));
  }
}

Load BatchSource::total_load() const {
  if (const auto* load = std::get_if<Load>(&data_)) return *load;
  if (const auto* statistics = std::get_if<Statistics>(&data_))
    return eplb::total_load(*statistics);
  const auto& traces = std::get<std::vector<Trace>>(data_);
  int64_t longest = 0;
  for (const Trace& trace : traces) longest = std::max(longest, trace.num_tokens());
  Load sum;
  for (const Trace& trace : traces) {
    Load load = eplb::total_load(trace);
    const int64_t length = trace.num_tokens();
    for (int64_t& tokens : load.tokens) tokens = (tokens * longest + length / 2) / length;
    if (sum.tokens.empty()) {
      sum = std::move(load);
      continue;
    }
    for (size_t i = 0; i < sum.tokens.size(); ++i) sum.tokens[i] += load.tokens[i];
  }
  return sum;
}

}  // namespace wideep::eplb
