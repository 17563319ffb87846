#include "eplb/statistics_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/file.h"
#include "base/safetensors.h"
#include "eplb/rank_files.h"

namespace wideep::eplb {
namespace {

std::string entry_name(int iteration, int layer) {
  return fmt::format("{}_{}", iteration, layer);
}

// Refuses a folder with files that are not ours to replace.
Status check_replaceable(const std::string& folder) {
  if (!is_directory(folder)) {
    return Status::invalid_input(fmt::format("{}: exists and is not a folder", folder));
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(folder));
  for (const std::string& name : names) {
    const RankFile kind = parse_rank_file_name(name).kind;
    if (kind == RankFile::kExperts) RETURN_IF_ERROR(check_replaceable(join_path(folder, name)));
    if (kind == RankFile::kUnknown) {
      return Status::invalid_input(
          fmt::format("{}: holds \"{}\", which is no statistics file: name a new or empty folder",
                      folder, name));
    }
  }
  return Status::ok();
}

Status move_file(const std::string& from, const std::string& to) {
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error) return Status::io(fmt::format("{}: cannot replace: {}", to, error.message()));
  return Status::ok();
}

Status remove_path(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return Status::io(fmt::format("{}: cannot remove: {}", path, error.message()));
  return Status::ok();
}

Status write_counts(const std::string& folder, int num_columns, int rank,
                    std::span<const RankCounts> counts) {
  std::vector<TensorToWrite> tensors;
  tensors.reserve(counts.size());
  for (const RankCounts& entry : counts) {
    CHECK_EQ(entry.tokens.size(), static_cast<size_t>(num_columns));
    tensors.push_back({entry_name(entry.iteration, entry.layer),
                       DType::kI64,
                       {num_columns},
                       std::as_bytes(std::span(entry.tokens))});
  }
  return write_safetensors(join_path(folder, rank_file_name(RankFile::kCounts, rank)),
                           std::move(tensors));
}

// TensorRT-LLM's two keys, and ep_size where the number of rank files does not say it.
Status write_meta_info(const std::string& folder, int num_columns, const StatisticsLayout& layout) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(folder));
  const auto files = std::ranges::count_if(names, [](const std::string& name) {
    return parse_rank_file_name(name).kind == RankFile::kCounts;
  });
  const bool says_ep_size = layout.ep_size > 0 && layout.ep_size != files;
  return write_file(
      join_path(folder, rank_file_name(RankFile::kMetaInfo, 0)),
      fmt::format("{{\"num_experts\": {}, \"num_experts_per_token\": {}{}}}", num_columns,
                  layout.top_k,
                  says_ep_size ? fmt::format(", \"ep_size\": {}", layout.ep_size) : ""));
}

}  // namespace

StatisticsWriter::StatisticsWriter(std::string folder, std::string staging,
                                   const StatisticsLayout& layout, bool made_folder)
    : folder_(std::move(folder)),
      staging_(std::move(staging)),
      layout_(layout),
      made_folder_(made_folder) {}

StatisticsWriter::StatisticsWriter(StatisticsWriter&& other) noexcept
    : folder_(std::move(other.folder_)),
      staging_(std::exchange(other.staging_, {})),
      layout_(other.layout_),
      made_folder_(other.made_folder_) {}

StatisticsWriter::~StatisticsWriter() {
  if (staging_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(staging_, ignored);
  if (made_folder_) std::filesystem::remove(folder_, ignored);
}

Result<StatisticsWriter> StatisticsWriter::create(const std::string& folder,
                                                  const StatisticsLayout& layout) {
  CHECK(layout.num_experts >= 1 && layout.top_k >= 1 && layout.top_k <= layout.num_experts);
  CHECK(layout.num_slots == 0 || layout.num_slots >= layout.num_experts);
  const bool exists = path_exists(folder);
  if (exists) RETURN_IF_ERROR(check_replaceable(folder));
  RETURN_IF_ERROR(make_directory(folder));
  std::string staging = join_path(folder, fmt::format("{}XXXXXX", kStagingPrefix));
  if (::mkdtemp(staging.data()) == nullptr) {
    return Status::io(fmt::format("{}: cannot write in it: {}", folder, std::strerror(errno)));
  }
  StatisticsWriter writer(folder, std::move(staging), layout, !exists);
  if (layout.num_slots > 0) RETURN_IF_ERROR(make_directory(writer.experts_staging()));
  return writer;
}

std::string StatisticsWriter::experts_staging() const {
  return join_path(staging_, rank_file_name(RankFile::kExperts, 0));
}

Status StatisticsWriter::add_counts(int rank, std::span<const RankCounts> counts) {
  return write_counts(staging_, num_columns(), rank, counts);
}

Status StatisticsWriter::add_expert_counts(int rank, std::span<const RankCounts> counts) {
  CHECK(layout_.num_slots > 0);
  return write_counts(experts_staging(), layout_.num_experts, rank, counts);
}

Status StatisticsWriter::add_raw(int rank, std::span<const RawIds> ids) {
  std::vector<const RawIds*> entries;
  for (const RawIds& entry : ids) entries.push_back(&entry);
  return write_raw_file(join_path(staging_, rank_file_name(RankFile::kRaw, rank)), entries);
}

Status StatisticsWriter::commit() {
  CHECK(!staging_.empty());
  const std::string meta_name = rank_file_name(RankFile::kMetaInfo, 0);
  RETURN_IF_ERROR(write_meta_info(staging_, num_columns(), layout_));
  if (layout_.num_slots > 0) {
    RETURN_IF_ERROR(write_meta_info(experts_staging(), layout_.num_experts, layout_));
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> staged, list_directory(staging_));
  ASSIGN_OR_RETURN(const std::vector<std::string> present, list_directory(folder_));
  const std::string own_staging = std::filesystem::path(staging_).filename();
  RETURN_IF_ERROR(remove_path(join_path(folder_, meta_name)));
  made_folder_ = false;
  for (const std::string& name : present) {
    if (name == own_staging || parse_rank_file_name(name).kind == RankFile::kUnknown) continue;
    RETURN_IF_ERROR(remove_path(join_path(folder_, name)));
  }
  for (const std::string& name : staged) {
    if (name == meta_name) continue;
    RETURN_IF_ERROR(move_file(join_path(staging_, name), join_path(folder_, name)));
  }
  RETURN_IF_ERROR(move_file(join_path(staging_, meta_name), join_path(folder_, meta_name)));
  return remove_path(std::exchange(staging_, {}));
}

Status write_raw_file(const std::string& path, std::span<const RawIds* const> ids) {
  std::vector<TensorToWrite> tensors;
  tensors.reserve(ids.size());
  for (const RawIds* entry : ids) {
    CHECK(entry->top_k >= 1);
    const auto tokens = static_cast<int64_t>(entry->experts.size()) / entry->top_k;
    CHECK_EQ(tokens * entry->top_k, static_cast<int64_t>(entry->experts.size()));
    tensors.push_back({entry_name(entry->iteration, entry->layer),
                       DType::kI32,
                       {tokens, entry->top_k},
                       std::as_bytes(std::span(entry->experts))});
  }
  return write_safetensors(path, std::move(tensors));
}

}  // namespace wideep::eplb
