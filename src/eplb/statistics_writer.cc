#include "eplb/statistics_writer.h"

#include <fmt/format.h>

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
    if (parse_rank_file_name(name).kind == RankFile::kUnknown) {
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

}  // namespace

StatisticsWriter::StatisticsWriter(std::string folder, std::string staging, int num_experts,
                                   int top_k, bool made_folder)
    : folder_(std::move(folder)),
      staging_(std::move(staging)),
      num_experts_(num_experts),
      top_k_(top_k),
      made_folder_(made_folder) {}

StatisticsWriter::StatisticsWriter(StatisticsWriter&& other) noexcept
    : folder_(std::move(other.folder_)),
      staging_(std::exchange(other.staging_, {})),
      num_experts_(other.num_experts_),
      top_k_(other.top_k_),
      made_folder_(other.made_folder_) {}

StatisticsWriter::~StatisticsWriter() {
  if (staging_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(staging_, ignored);
  if (made_folder_) std::filesystem::remove(folder_, ignored);
}

Result<StatisticsWriter> StatisticsWriter::create(const std::string& folder, int num_experts,
                                                  int top_k) {
  CHECK(num_experts >= 1 && top_k >= 1 && top_k <= num_experts);
  const bool exists = path_exists(folder);
  if (exists) RETURN_IF_ERROR(check_replaceable(folder));
  RETURN_IF_ERROR(make_directory(folder));
  std::string staging = join_path(folder, fmt::format("{}XXXXXX", kStagingPrefix));
  if (::mkdtemp(staging.data()) == nullptr) {
    return Status::io(fmt::format("{}: cannot write in it: {}", folder, std::strerror(errno)));
  }
  return StatisticsWriter(folder, std::move(staging), num_experts, top_k, !exists);
}

Status StatisticsWriter::add_counts(int rank, std::span<const RankCounts> counts) {
  std::vector<TensorToWrite> tensors;
  tensors.reserve(counts.size());
  for (const RankCounts& entry : counts) {
    CHECK_EQ(entry.tokens.size(), static_cast<size_t>(num_experts_));
    tensors.push_back({entry_name(entry.iteration, entry.layer),
                       DType::kI64,
                       {num_experts_},
                       std::as_bytes(std::span(entry.tokens))});
  }
  return write_safetensors(join_path(staging_, rank_file_name(RankFile::kCounts, rank)),
                           std::move(tensors));
}

Status StatisticsWriter::add_raw(int rank, std::span<const RawIds> ids) {
  std::vector<const RawIds*> entries;
  for (const RawIds& entry : ids) entries.push_back(&entry);
  return write_raw_file(join_path(staging_, rank_file_name(RankFile::kRaw, rank)), entries);
}

Status StatisticsWriter::commit() {
  CHECK(!staging_.empty());
  const std::string meta_name = rank_file_name(RankFile::kMetaInfo, 0);
  RETURN_IF_ERROR(write_file(
      join_path(staging_, meta_name),
      fmt::format("{{\"num_experts\": {}, \"num_experts_per_token\": {}}}", num_experts_, top_k_)));
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
