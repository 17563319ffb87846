#include "eplb/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/file.h"
#include "base/text.h"
#include "config/limits.h"
#include "eplb/csv.h"
#include "eplb/load_rules.h"
#include "eplb/sglang.h"
#include "eplb/trace.h"

namespace wideep::eplb {
namespace {

constexpr std::string_view kFormats = "a statistics folder, SGLang .json, .csv, or an .npy trace";

// Files that hold loads elsewhere, and what turns them into one that we read.
struct Foreign {
  std::string_view extension;
  std::string_view remedy;
};
constexpr Foreign kForeign[] = {
    {".pt", "save json.dump({\"logical_count\": tensor.tolist()}, file) from torch.load of it"},
    {".npz", "extract its arrays: each is an .npy file in the zip archive"},
    {".safetensors", "name the statistics folder that holds it"},
};

}  // namespace

Result<LoadFormat> load_format(const std::string& path) {
  if (is_directory(path)) return LoadFormat::kStatistics;
  if (!path_exists(path)) return Status::not_found(fmt::format("{}: no such file or folder", path));
  const std::string lower = to_lower(path);
  if (lower.ends_with(".json")) return LoadFormat::kSglang;
  if (lower.ends_with(".csv")) return LoadFormat::kCsv;
  if (lower.ends_with(".npy")) return LoadFormat::kTrace;
  for (const Foreign& foreign : kForeign) {
    if (!lower.ends_with(foreign.extension)) continue;
    return Status::invalid_input(
        fmt::format("{}: {} files are not read: {}", path, foreign.extension, foreign.remedy));
  }
  return Status::invalid_input(fmt::format("{}: unknown kind of load: want {}", path, kFormats));
}

Result<Load> read_load(const std::string& path, IterationWindow window) {
  ASSIGN_OR_RETURN(const LoadFormat format, load_format(path));
  return read_load_as(format, path, window);
}

Result<Load> read_load_as(LoadFormat format, const std::string& path, IterationWindow window,
                          const std::string& dataset) {
  if (format == LoadFormat::kStatistics) {
    ASSIGN_OR_RETURN(const Statistics statistics, read_statistics(expert_folder(path), window));
    return finish_load(total_load(statistics), DenseFront::kKeep, path);
  }
  if (window.start != -1 || window.stop != -1) {
    return Status::invalid_input(
        fmt::format("{}: has no iterations to choose from: only a statistics folder has", path));
  }
  if (format == LoadFormat::kTrace) {
    ASSIGN_OR_RETURN(const Trace trace, Trace::open({path}));
    return total_load(trace);
  }
  ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return format == LoadFormat::kSglang ? parse_sglang_load(text, path)
                                       : parse_csv_load(text, path, dataset);
}

Result<Load> finish_load(Load load, DenseFront dense_front, const std::string& name) {
  const auto width = static_cast<size_t>(load.num_experts);
  if (load.num_experts < 1 || load.num_experts > kMaxSlots || load.tokens.empty()) {
    return Status::invalid_input(
        fmt::format("{}: has {} experts, must be from 1 to {}", name, load.num_experts, kMaxSlots));
  }
  CHECK_EQ(load.tokens.size() % width, size_t{0});
  if (load.layers.empty()) {
    load.layers.resize(load.tokens.size() / width);
    std::iota(load.layers.begin(), load.layers.end(), 0);
  }
  const auto first = std::find_if(load.tokens.begin(), load.tokens.end(),
                                  [](int64_t tokens) { return tokens != 0; });
  if (first == load.tokens.end()) {
    return Status::invalid_input(fmt::format("{}: no layer has any token", name));
  }
  if (dense_front == DenseFront::kDrop) {
    const auto dense = (first - load.tokens.begin()) / load.num_experts;
    load.layers.erase(load.layers.begin(), load.layers.begin() + dense);
    load.tokens.erase(load.tokens.begin(), load.tokens.begin() + dense * load.num_experts);
  }
  for (int i = 0; i < load.num_layers(); ++i) {
    int64_t sum = 0;
    for (const int64_t tokens : load.row(i)) {
      sum += tokens;
      if (sum <= kMaxLayerTokens) continue;
      return Status::invalid_input(fmt::format("{}: layer {} has more than 2^50 tokens", name,
                                               load.layers[static_cast<size_t>(i)]));
    }
  }
  return load;
}

}  // namespace wideep::eplb
