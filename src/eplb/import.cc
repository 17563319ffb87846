#include "eplb/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "base/parallel.h"
#include "base/random.h"
#include "config/limits.h"
#include "eplb/alias_table.h"
#include "eplb/distinct_sampler.h"
#include "eplb/sampler.h"
#include "eplb/statistics_writer.h"
#include "eplb/trace.h"

namespace wideep::eplb {
namespace {

constexpr int kDefaultTopK = 8;  // DeepSeek-V3's
constexpr int kMaxIterations = 1'000'000;
constexpr int kMaxTokensPerRank = 1 << 20;
// Counts (and ids) of one rank are held in memory.
constexpr int64_t kMaxBytesPerRank = int64_t{4} << 30;

// First coordinate of every generator, so that no two purposes share a sequence.
enum Purpose : uint64_t { kCounts = 101, kIds, kTokens };

// What is sampled from (a load or a trace), and the sizes of what comes out.
struct Input {
  std::optional<Trace> trace;
  Load load;
  // [num_layers] of a load whose ids are wanted; none in a layer without load.
  std::vector<std::optional<DistinctSampler>> samplers;
  // [num_layers] of a load whose counts are drawn pair by pair; likewise.
  std::vector<std::optional<AliasTable>> tables;
  std::vector<int> layers;
  int num_experts = 0;
  int top_k = 0;
};

// Counts and ids of one rank, in (iteration, layer) order.
struct RankOutput {
  std::vector<RankCounts> counts;
  std::vector<RawIds> raw;
};

Status check_range(const char* flag, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return Status::ok();
  return Status::invalid_input(fmt::format("--{} {}: must be from 1 to {}", flag, value, max));
}

Status check_options(const ImportOptions& options, const Input& input) {
  RETURN_IF_ERROR(check_range("ranks", options.num_ranks, kMaxRanks));
  RETURN_IF_ERROR(check_range("iterations", options.num_iterations, kMaxIterations));
  RETURN_IF_ERROR(check_range("tokens_per_rank", options.tokens_per_rank, kMaxTokensPerRank));
  RETURN_IF_ERROR(check_range("top_k", input.top_k, std::min(kMaxTopK, input.num_experts)));
  const int64_t ids = options.raw ? int64_t{4} * options.tokens_per_rank * input.top_k : 0;
  const int64_t row = 8 * int64_t{input.num_experts} + ids;
  const int64_t rows = int64_t{options.num_iterations} * static_cast<int64_t>(input.layers.size());
  if (rows <= kMaxBytesPerRank / row) return Status::ok();
  return Status::invalid_input(
      fmt::format("--iterations {}: {} layers of them take more than {} GiB a rank: give fewer",
                  options.num_iterations, input.layers.size(), kMaxBytesPerRank >> 30));
}

Status make_samplers(const std::string& path, bool raw, Input& input) {
  for (int i = 0; i < input.load.num_layers(); ++i) {
    const auto row = input.load.row(i);
    input.samplers.emplace_back();
    input.tables.emplace_back();
    if (std::all_of(row.begin(), row.end(), [](int64_t tokens) { return tokens == 0; })) continue;
    if (!raw) {
      input.tables.back().emplace(row);
      continue;
    }
    Result<DistinctSampler> sampler = DistinctSampler::create(row, input.top_k);
    if (!sampler.is_ok()) {
      return Status::invalid_input(fmt::format("{}: layer {}: {}: lower --top_k", path,
                                               input.load.layers[static_cast<size_t>(i)],
                                               sampler.status().message()));
    }
    input.samplers.back() = std::move(sampler).value();
  }
  return Status::ok();
}

Result<Input> open_input(const ImportSource& source, const ImportOptions& options) {
  Input input;
  if (source.format == LoadFormat::kTrace) {
    ASSIGN_OR_RETURN(input.trace,
                     Trace::open(source.paths, source.num_experts, source.first_layer));
    input.layers = input.trace->layers();
    input.num_experts = input.trace->num_experts();
    input.top_k = input.trace->top_k();
    if (options.top_k > 0 && options.top_k != input.top_k) {
      return Status::invalid_input(fmt::format("--top_k {}: {} has {} experts a token",
                                               options.top_k, source.paths[0], input.top_k));
    }
    RETURN_IF_ERROR(check_options(options, input));
    return input;
  }
  if (source.paths.size() != 1) {
    return Status::invalid_input("--input: must be one file; only traces may be several");
  }
  ASSIGN_OR_RETURN(input.load, read_load_as(source.format, source.paths[0], {}, source.dataset));
  input.layers = input.load.layers;
  input.num_experts = input.load.num_experts;
  input.top_k = options.top_k != 0      ? options.top_k
                : input.load.top_k != 0 ? input.load.top_k
                                        : kDefaultTopK;
  RETURN_IF_ERROR(check_options(options, input));
  RETURN_IF_ERROR(make_samplers(source.paths[0], options.raw, input));
  return input;
}

// Independent draws: [num_experts] counts that sum to `draws`. A draw from the table is some forty
// times cheaper than one expert's binomial, which is the better way for large batches.
void draw_counts(const Input& input, size_t layer_index, int64_t draws, Random& random,
                 std::span<int64_t> counts) {
  constexpr int64_t kDrawsPerBinomial = 40;
  if (!input.tables[layer_index].has_value()) return;
  if (draws > kDrawsPerBinomial * input.num_experts) {
    sample_counts(random, input.load.row(static_cast<int>(layer_index)), draws, counts);
    return;
  }
  const AliasTable& table = *input.tables[layer_index];
  for (int64_t i = 0; i < draws; ++i) ++counts[static_cast<size_t>(table.draw(random))];
}

// Which tokens of the trace a rank has in an iteration: [tokens_per_rank].
std::vector<int64_t> draw_tokens(const Trace& trace, const ImportOptions& options, int rank,
                                 int iteration) {
  Random random(options.seed,
                {kTokens, static_cast<uint64_t>(rank), static_cast<uint64_t>(iteration)});
  const auto size = static_cast<size_t>(options.tokens_per_rank);
  const auto& starts = trace.text_starts();
  std::vector<int64_t> tokens;
  tokens.reserve(size);
  while (tokens.size() < size) {
    // A uniform token draws its text in proportion to the text's length.
    auto token = static_cast<int64_t>(random.below(static_cast<uint64_t>(trace.num_tokens())));
    int64_t run = 1;
    if (options.batching == Batching::kSequence) {
      const auto next = std::upper_bound(starts.begin(), starts.end(), token);
      const int64_t begin = *(next - 1);
      const int64_t length = *next - begin;
      run = std::min(length, static_cast<int64_t>(size - tokens.size()));
      token = begin + static_cast<int64_t>(random.below(static_cast<uint64_t>(length - run + 1)));
    }
    for (int64_t i = 0; i < run; ++i) tokens.push_back(token + i);
  }
  return tokens;
}

// One iteration of one rank, all layers.
void sample_iteration(const Input& input, const ImportOptions& options, int rank, int iteration,
                      RankOutput& out) {
  const auto top_k = static_cast<size_t>(input.top_k);
  std::vector<int64_t> tokens;
  if (input.trace.has_value()) tokens = draw_tokens(*input.trace, options, rank, iteration);
  std::vector<int32_t> ids;  // [tokens_per_rank, top_k]
  for (size_t i = 0; i < input.layers.size(); ++i) {
    const auto layer_index = static_cast<int>(i);
    Random random(options.seed, {options.raw ? kIds : kCounts, static_cast<uint64_t>(rank),
                                 static_cast<uint64_t>(iteration), i});
    RankCounts counts{iteration, input.layers[i],
                      std::vector<int64_t>(static_cast<size_t>(input.num_experts))};
    ids.assign(static_cast<size_t>(options.tokens_per_rank) * top_k, -1);
    if (input.trace.has_value()) {
      for (size_t t = 0; t < tokens.size(); ++t) {
        input.trace->experts(tokens[t], layer_index, ids.data() + t * top_k);
      }
    } else if (!options.raw) {
      draw_counts(input, i, static_cast<int64_t>(ids.size()), random, counts.tokens);
    } else if (input.samplers[i].has_value()) {
      input.samplers[i]->draw(random, options.tokens_per_rank, ids);
    }
    for (const int32_t id : ids) {
      if (id >= 0) ++counts.tokens[static_cast<size_t>(id)];
    }
    if (options.raw) out.raw.push_back({rank, iteration, counts.layer, input.top_k, ids});
    out.counts.push_back(std::move(counts));
  }
}

Status import_rank(const Input& input, const ImportOptions& options, int rank,
                   StatisticsWriter& writer, const std::function<void()>& progress) {
  RankOutput out;
  for (int iteration = 0; iteration < options.num_iterations; ++iteration) {
    sample_iteration(input, options, rank, iteration, out);
    if (progress) progress();
  }
  RETURN_IF_ERROR(writer.add_counts(rank, out.counts));
  return options.raw ? writer.add_raw(rank, out.raw) : Status::ok();
}

}  // namespace

Result<ImportSummary> import_statistics(const ImportSource& source, const ImportOptions& options,
                                        const std::string& folder,
                                        const std::function<void()>& progress) {
  ASSIGN_OR_RETURN(const Input input, open_input(source, options));
  ASSIGN_OR_RETURN(
      StatisticsWriter writer,
      StatisticsWriter::create(folder, {.num_experts = input.num_experts, .top_k = input.top_k}));
  std::vector<Status> statuses(static_cast<size_t>(options.num_ranks));
  std::atomic<bool> failed{false};
  parallel_for(options.num_ranks, options.threads, [&](int rank) {
    if (failed) return;
    Status& status = statuses[static_cast<size_t>(rank)];
    status = import_rank(input, options, rank, writer, progress);
    if (!status.is_ok()) failed = true;
  });
  for (const Status& status : statuses) RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(writer.commit());
  return ImportSummary{static_cast<int>(input.layers.size()), input.num_experts, input.top_k};
}

}  // namespace wideep::eplb
