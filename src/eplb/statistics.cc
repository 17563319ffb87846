#include "eplb/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "base/file.h"
#include "base/safetensors.h"
#include "eplb/rank_files.h"
#include "eplb/statistics_writer.h"

namespace wideep::eplb {
namespace {

template <typename T>
Status copy_ids(const Safetensors& file, const TensorEntry& entry, int num_experts, RawIds& out) {
  ASSIGN_OR_RETURN(const TensorValues<T> values, file.values<T>(entry));
  out.experts.reserve(values.span().size());
  for (const T id : values.span()) {
    if (id < -1 || id >= num_experts) {
      return Status::invalid_input(
          fmt::format("{}: \"{}\": token {}: id {} is not in [-1, {})", file.name(), entry.name,
                      out.experts.size() / static_cast<size_t>(out.top_k), id, num_experts));
    }
    out.experts.push_back(static_cast<int32_t>(id));
  }
  return Status::ok();
}

Result<RawIds> read_raw_entry(const Safetensors& file, const TensorEntry& entry, int rank,
                              const MetaInfo& meta) {
  ASSIGN_OR_RETURN(const EntryKey key, parse_entry_key(entry, file.name()));
  if (entry.shape.size() != 2 || entry.shape[1] != meta.top_k) {
    return Status::invalid_input(
        fmt::format("{}: \"{}\": shape must be [tokens, {}] by num_experts_per_token of "
                    "meta_info.json",
                    file.name(), entry.name, meta.top_k));
  }
  RawIds ids;
  ids.rank = rank;
  ids.iteration = key.iteration;
  ids.layer = key.layer;
  ids.top_k = meta.top_k;
  RETURN_IF_ERROR(entry.dtype == DType::kI64
                      ? copy_ids<int64_t>(file, entry, meta.num_experts, ids)
                      : copy_ids<int32_t>(file, entry, meta.num_experts, ids));
  return ids;
}

}  // namespace

std::string expert_folder(const std::string& folder) {
  const std::string experts = join_path(folder, rank_file_name(RankFile::kExperts, 0));
  // Without its meta_info.json the folder was left half replaced: its reader will say so.
  const bool is_whole = path_exists(join_path(folder, rank_file_name(RankFile::kMetaInfo, 0)));
  return is_whole && is_directory(experts) ? experts : folder;
}

Result<Statistics> read_statistics(const std::string& folder, IterationWindow window) {
  ASSIGN_OR_RETURN(const MetaInfo meta, read_meta_info(folder));
  ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                   list_rank_files(folder, RankFile::kCounts));
  Statistics statistics;
  Grid grid;
  const int64_t shape[] = {meta.num_experts};
  const auto row = [&](int iteration, int layer_index) {
    const int64_t index =
        static_cast<int64_t>(iteration - statistics.iter_start) * statistics.num_layers() +
        layer_index;
    return std::span<int64_t>(statistics.tokens)
        .subspan(static_cast<size_t>(index * meta.num_experts),
                 static_cast<size_t>(meta.num_experts));
  };
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const Safetensors file, Safetensors::open(path));
    if (statistics.tokens.empty()) {
      ASSIGN_OR_RETURN(grid, read_grid(file));
      ASSIGN_OR_RETURN(window, resolve_window(window, grid, folder));
      statistics.num_experts = meta.num_experts;
      statistics.top_k = meta.top_k;
      statistics.num_ranks = meta.ep_size > 0 ? meta.ep_size : static_cast<int>(paths.size());
      statistics.iter_start = window.start;
      statistics.iter_stop = window.stop;
      statistics.layers = grid.layers;
      // Before memory is asked for on the word of meta_info.json, the file must have such rows.
      RETURN_IF_ERROR(check_shapes(file, shape));
      statistics.tokens.assign(static_cast<size_t>(statistics.num_iterations()) *
                                   grid.layers.size() * static_cast<size_t>(meta.num_experts),
                               0);
    }
    RETURN_IF_ERROR(add_entries(file, grid, window, shape, row));
  }
  return statistics;
}

Result<Cooccurrence> read_cooccurrence(const std::string& folder, IterationWindow window) {
  ASSIGN_OR_RETURN(const MetaInfo meta, read_meta_info(folder));
  ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                   list_rank_files(folder, RankFile::kCooccurrence));
  Cooccurrence result;
  result.num_experts = meta.num_experts;
  Grid grid;
  const int64_t shape[] = {meta.num_experts, meta.num_experts};
  const size_t matrix = static_cast<size_t>(meta.num_experts) * static_cast<size_t>(shape[1]);
  const auto row = [&](int, int layer_index) {
    return std::span<int64_t>(result.counts)
        .subspan(static_cast<size_t>(layer_index) * matrix, matrix);
  };
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const Safetensors file, Safetensors::open(path));
    if (result.layers.empty()) {
      ASSIGN_OR_RETURN(grid, read_grid(file));
      ASSIGN_OR_RETURN(window, resolve_window(window, grid, folder));
      RETURN_IF_ERROR(check_shapes(file, shape));
      result.layers = grid.layers;
      result.counts.assign(grid.layers.size() * matrix, 0);
    }
    RETURN_IF_ERROR(add_entries(file, grid, window, shape, row));
  }
  return result;
}

Result<std::vector<RawIds>> read_raw_statistics(const std::string& folder, IterationWindow window) {
  ASSIGN_OR_RETURN(const MetaInfo meta, read_meta_info(folder));
  ASSIGN_OR_RETURN(const std::vector<std::string> paths, list_rank_files(folder, RankFile::kRaw));
  std::vector<RawIds> all;
  for (size_t rank = 0; rank < paths.size(); ++rank) {
    ASSIGN_OR_RETURN(const Safetensors file, Safetensors::open(paths[rank]));
    for (const TensorEntry& entry : file.tensors()) {
      ASSIGN_OR_RETURN(const EntryKey key, parse_entry_key(entry, file.name()));
      if (window.start != -1 && key.iteration < window.start) continue;
      if (window.stop != -1 && key.iteration >= window.stop) continue;
      ASSIGN_OR_RETURN(RawIds ids, read_raw_entry(file, entry, static_cast<int>(rank), meta));
      all.push_back(std::move(ids));
    }
  }
  if (all.empty()) {
    return Status::invalid_input(
        fmt::format("{}: the raw files hold no entry of iterations [{}, {})", folder, window.start,
                    window.stop));
  }
  std::sort(all.begin(), all.end(), [](const RawIds& a, const RawIds& b) {
    return std::tie(a.iteration, a.layer, a.rank) < std::tie(b.iteration, b.layer, b.rank);
  });
  return all;
}

Status write_statistics(const std::string& folder, int num_experts, int top_k,
                        const std::vector<std::vector<RankCounts>>& counts_of_rank) {
  ASSIGN_OR_RETURN(StatisticsWriter writer,
                   StatisticsWriter::create(folder, {.num_experts = num_experts, .top_k = top_k}));
  for (size_t rank = 0; rank < counts_of_rank.size(); ++rank) {
    RETURN_IF_ERROR(writer.add_counts(static_cast<int>(rank), counts_of_rank[rank]));
  }
  return writer.commit();
}

Status write_raw_statistics(const std::string& folder, const std::vector<RawIds>& ids) {
  RETURN_IF_ERROR(make_directory(folder));
  std::map<int, std::vector<const RawIds*>> of_rank;
  for (const RawIds& entry : ids) of_rank[entry.rank].push_back(&entry);
  for (const auto& [rank, entries] : of_rank) {
    RETURN_IF_ERROR(
        write_raw_file(join_path(folder, rank_file_name(RankFile::kRaw, rank)), entries));
  }
  return Status::ok();
}

Load total_load(const Statistics& statistics) {
  Load load;
  load.num_experts = statistics.num_experts;
  load.top_k = statistics.top_k;
  load.layers = statistics.layers;
  const size_t width = statistics.layers.size() * static_cast<size_t>(statistics.num_experts);
  load.tokens.assign(width, 0);
  for (size_t i = 0; i < statistics.tokens.size(); ++i) {
    load.tokens[i % width] += statistics.tokens[i];
  }
  return load;
}

}  // namespace wideep::eplb
