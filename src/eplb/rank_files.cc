#include "eplb/rank_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <climits>
#include <optional>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "config/limits.h"
#include "eplb/load_rules.h"

namespace wideep::eplb {
namespace {

// Decimal, without sign or leading zeros, below INT_MAX.
std::optional<int> parse_index(std::string_view text) {
  if (text.empty() || text.size() > 10 || (text.size() > 1 && text.front() == '0')) {
    return std::nullopt;
  }
  if (text.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  const std::optional<int64_t> value = parse_int(text);
  if (!value.has_value() || *value >= INT_MAX) return std::nullopt;
  return static_cast<int>(*value);
}

struct Pattern {
  RankFile kind;
  std::string_view prefix;
  std::string_view suffix;
};

constexpr Pattern kPatterns[] = {
    {RankFile::kRaw, "rank", "_raw.safetensors"},
    {RankFile::kCounts, "rank", ".safetensors"},
    {RankFile::kCooccurrence, "cooccurrence_rank", ".safetensors"},
    {RankFile::kSelected, "token_selected_experts_rank", ".safetensors"},
    {RankFile::kNumTokens, "rank", "_numtokens.json"},
};
constexpr std::string_view kMetaInfoName = "meta_info.json";
constexpr std::string_view kExpertsName = "experts";

template <typename T>
Status add_values(const Safetensors& file, const TensorEntry& entry, std::span<int64_t> row) {
  ASSIGN_OR_RETURN(const TensorValues<T> values, file.values<T>(entry));
  const std::span<const T> counts = values.span();
  for (size_t i = 0; i < counts.size(); ++i) {
    const int64_t count = counts[i];
    if (count < 0 || count > kMaxLayerTokens || row[i] + count > kMaxLayerTokens) {
      return Status::invalid_input(
          fmt::format("{}: \"{}\": element {} is {}: counts must be from 0 to 2^50, also summed",
                      file.name(), entry.name, i, count));
    }
    row[i] += count;
  }
  return Status::ok();
}

Result<int> read_positive(const Json& meta, const char* key, int max, const std::string& path) {
  const auto at = meta.find(key);
  if (at == meta.end()) {
    return Status::invalid_input(fmt::format("{}: no key \"{}\"", path, key));
  }
  if (!at->is_number_integer() || *at < 1 || *at > max) {
    return Status::invalid_input(fmt::format("{}: {} is {}: must be a whole number from 1 to {}",
                                             path, key, at->dump().substr(0, 40), max));
  }
  return at->get<int>();
}

// The first point of the grid that `present` (sorted) lacks.
EntryKey first_missing(const Grid& grid, const std::set<std::pair<int, int>>& present) {
  for (int iteration = grid.iter_start; iteration < grid.iter_stop; ++iteration) {
    for (const int layer : grid.layers) {
      if (!present.contains({iteration, layer})) return {iteration, layer};
    }
  }
  return {};
}

}  // namespace

RankFileName parse_rank_file_name(std::string_view name) {
  if (name == kMetaInfoName) return {RankFile::kMetaInfo, 0};
  if (name == kExpertsName) return {RankFile::kExperts, 0};
  if (name.starts_with(kStagingPrefix)) return {RankFile::kStaging, 0};
  for (const Pattern& pattern : kPatterns) {
    if (name.size() < pattern.prefix.size() + pattern.suffix.size()) continue;
    if (!name.starts_with(pattern.prefix) || !name.ends_with(pattern.suffix)) continue;
    const std::string_view digits = name.substr(
        pattern.prefix.size(), name.size() - pattern.prefix.size() - pattern.suffix.size());
    if (const auto rank = parse_index(digits); rank.has_value()) return {pattern.kind, *rank};
  }
  return {};
}

std::string rank_file_name(RankFile kind, int rank) {
  if (kind == RankFile::kMetaInfo) return std::string(kMetaInfoName);
  if (kind == RankFile::kExperts) return std::string(kExpertsName);
  for (const Pattern& pattern : kPatterns) {
    if (pattern.kind == kind) return fmt::format("{}{}{}", pattern.prefix, rank, pattern.suffix);
  }
  CHECK(false);
}

Result<MetaInfo> read_meta_info(const std::string& folder) {
  if (path_exists(folder) && !is_directory(folder)) {
    return Status::invalid_input(
        fmt::format("{}: not a folder: statistics are a folder with meta_info.json", folder));
  }
  const std::string path = join_path(folder, kMetaInfoName);
  ASSIGN_OR_RETURN(const Json meta, read_json(path));
  if (!meta.is_object()) return Status::invalid_input(fmt::format("{}: not a JSON object", path));
  MetaInfo info;
  ASSIGN_OR_RETURN(info.num_experts, read_positive(meta, "num_experts", kMaxSlots, path));
  ASSIGN_OR_RETURN(info.top_k,
                   read_positive(meta, "num_experts_per_token", info.num_experts, path));
  if (meta.contains("ep_size")) {
    ASSIGN_OR_RETURN(info.ep_size, read_positive(meta, "ep_size", kMaxRanks, path));
  }
  return info;
}

Result<std::vector<std::string>> list_rank_files(const std::string& folder, RankFile kind) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(folder));
  std::set<int> ranks;
  for (const std::string& name : names) {
    const RankFileName file = parse_rank_file_name(name);
    if (file.kind == kind) ranks.insert(file.rank);
    if (file.kind == RankFile::kUnknown && name.starts_with("rank") &&
        name.ends_with(".safetensors")) {
      return Status::invalid_input(
          fmt::format("{}: not a name of a statistics file: want rankN.safetensors or "
                      "rankN_raw.safetensors",
                      join_path(folder, name)));
    }
  }
  if (ranks.empty()) {
    return Status::not_found(fmt::format("{}: no file {}", folder, rank_file_name(kind, 0)));
  }
  std::vector<std::string> paths;
  for (const int rank : ranks) {
    const int expected = static_cast<int>(paths.size());
    if (rank != expected) {
      return Status::invalid_input(fmt::format("{}: {} is missing: the folder has {}", folder,
                                               rank_file_name(kind, expected),
                                               rank_file_name(kind, rank)));
    }
    paths.push_back(join_path(folder, rank_file_name(kind, rank)));
  }
  return paths;
}

Result<EntryKey> parse_entry_key(const TensorEntry& entry, const std::string& file) {
  const std::string_view name = entry.name;
  const size_t at = name.find('_');
  if (at != std::string_view::npos) {
    const auto iteration = parse_index(name.substr(0, at));
    const auto layer = parse_index(name.substr(at + 1));
    if (iteration.has_value() && layer.has_value()) return EntryKey{*iteration, *layer};
  }
  return Status::invalid_input(
      fmt::format("{}: key \"{}\" is not ITERATION_LAYER", file, entry.name));
}

int Grid::layer_index(int layer) const {
  const auto at = std::lower_bound(layers.begin(), layers.end(), layer);
  return at != layers.end() && *at == layer ? static_cast<int>(at - layers.begin()) : -1;
}

Result<Grid> read_grid(const Safetensors& file) {
  std::set<std::pair<int, int>> keys;
  std::set<int> iterations;
  std::set<int> layers;
  for (const TensorEntry& entry : file.tensors()) {
    ASSIGN_OR_RETURN(const EntryKey key, parse_entry_key(entry, file.name()));
    keys.emplace(key.iteration, key.layer);
    iterations.insert(key.iteration);
    layers.insert(key.layer);
  }
  if (keys.empty()) {
    return Status::invalid_input(fmt::format("{}: holds no counts", file.name()));
  }
  Grid grid;
  grid.iter_start = *iterations.begin();
  grid.iter_stop = *iterations.rbegin() + 1;
  grid.layers.assign(layers.begin(), layers.end());
  int expected = grid.iter_start;
  for (const int iteration : iterations) {
    if (iteration != expected++) {
      return Status::invalid_input(
          fmt::format("{}: iteration {} is missing: iterations must be contiguous, found {} to {}",
                      file.name(), expected - 1, grid.iter_start, grid.iter_stop - 1));
    }
  }
  if (keys.size() != iterations.size() * layers.size()) {
    const EntryKey missing = first_missing(grid, keys);
    return Status::invalid_input(
        fmt::format("{}: no entry \"{}_{}\": every iteration must have every layer", file.name(),
                    missing.iteration, missing.layer));
  }
  return grid;
}

Result<IterationWindow> resolve_window(IterationWindow window, const Grid& grid,
                                       const std::string& folder) {
  IterationWindow resolved{window.start == -1 ? grid.iter_start : window.start,
                           window.stop == -1 ? grid.iter_stop : window.stop};
  if (resolved.start >= resolved.stop) {
    return Status::invalid_input(fmt::format(
        "{}: iterations [{}, {}) are empty: iter_start must be less than iter_stop, the folder has "
        "[{}, {})",
        folder, resolved.start, resolved.stop, grid.iter_start, grid.iter_stop));
  }
  if (resolved.start < grid.iter_start || resolved.stop > grid.iter_stop) {
    return Status::invalid_input(
        fmt::format("{}: iterations [{}, {}) are not all recorded: the folder has [{}, {})", folder,
                    resolved.start, resolved.stop, grid.iter_start, grid.iter_stop));
  }
  return resolved;
}

Status check_shapes(const Safetensors& file, std::span<const int64_t> shape) {
  for (const TensorEntry& entry : file.tensors()) {
    if (!std::equal(entry.shape.begin(), entry.shape.end(), shape.begin(), shape.end())) {
      return Status::invalid_input(fmt::format(
          "{}: \"{}\": shape is [{}], must be [{}] by num_experts of meta_info.json", file.name(),
          entry.name, fmt::join(entry.shape, ", "), fmt::join(shape, ", ")));
    }
  }
  return Status::ok();
}

Status add_entries(const Safetensors& file, const Grid& grid, IterationWindow window,
                   std::span<const int64_t> shape,
                   const std::function<std::span<int64_t>(int, int)>& row) {
  RETURN_IF_ERROR(check_shapes(file, shape));
  for (const TensorEntry& entry : file.tensors()) {
    ASSIGN_OR_RETURN(const EntryKey key, parse_entry_key(entry, file.name()));
    const int layer_index = grid.layer_index(key.layer);
    if (key.iteration < grid.iter_start || key.iteration >= grid.iter_stop || layer_index < 0) {
      return Status::invalid_input(
          fmt::format("{}: entry \"{}\" is not in the file of rank 0: all ranks must have recorded "
                      "the same iterations and layers",
                      file.name(), entry.name));
    }
    if (key.iteration < window.start || key.iteration >= window.stop) continue;
    const std::span<int64_t> sums = row(key.iteration, layer_index);
    RETURN_IF_ERROR(entry.dtype == DType::kI32 ? add_values<int32_t>(file, entry, sums)
                                               : add_values<int64_t>(file, entry, sums));
  }
  // All keys are in the grid and distinct, so only their number is left to compare.
  const size_t points = static_cast<size_t>(grid.iter_stop - grid.iter_start) * grid.layers.size();
  if (file.tensors().size() == points) return Status::ok();
  std::set<std::pair<int, int>> present;
  for (const TensorEntry& entry : file.tensors()) {
    ASSIGN_OR_RETURN(const EntryKey key, parse_entry_key(entry, file.name()));
    present.emplace(key.iteration, key.layer);
  }
  const EntryKey missing = first_missing(grid, present);
  return Status::invalid_input(fmt::format("{}: no entry \"{}_{}\", which the file of rank 0 has",
                                           file.name(), missing.iteration, missing.layer));
}

}  // namespace wideep::eplb
