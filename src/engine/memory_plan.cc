#include "engine/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"

namespace wideep::engine {
namespace {

constexpr int64_t kKiB = 1024;

std::string size_text(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= kKiB * kKiB * kKiB) return fmt::format("{:.2f} GiB", value / (1024.0 * 1024 * 1024));
  return fmt::format("{:.1f} MiB", value / (1024.0 * 1024));
}

// The system's own files claim to have no bytes, so read_file would take none.
Result<std::string> read_system_file(const std::string& path) {
  std::ifstream file(path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) return Status::io(path + ": cannot be read");
  return text;
}

// The number behind `key` in a text of lines "key number"; nothing where there is none.
std::optional<int64_t> number_of(std::string_view text, std::string_view key) {
  for (const std::string_view line : split(text, '\n')) {
    if (line.starts_with(key)) return parse_int(trim(line.substr(key.size())));
  }
  return std::nullopt;
}

}  // namespace

Result<MemoryPlan> plan_memory(const MemoryPlanInput& input) {
  CHECK(input.page_size >= 1 && input.cp >= 1 && input.max_batch_size >= 1);
  CHECK(input.max_seq_len >= 1 && input.kv_bytes_per_token >= 1);
  MemoryPlan plan{.available = input.available_bytes,
                  .weights = input.weight_bytes,
                  .activations = input.activation_bytes,
                  .kv_cache = 0,
                  .num_pages = 0,
                  .page_tokens = input.page_size * input.cp};
  const int64_t page_bytes = input.kv_bytes_per_token * input.page_size;
  const int64_t left = plan.available - plan.weights - plan.activations;
  const auto share = static_cast<int64_t>(static_cast<double>(std::max<int64_t>(left, 0)) *
                                          input.free_memory_fraction);
  if (share < page_bytes) {
    return Status::unavailable(fmt::format(
        "too little memory: this rank has {}, its weights take {} and its activations {}; of what "
        "is left the KV cache gets {}, and a page of {} tokens takes {} (less: max_num_tokens, "
        "max_batch_size, ranks of this host)",
        size_text(plan.available), size_text(plan.weights), size_text(plan.activations),
        size_text(share), plan.page_tokens, size_text(page_bytes)));
  }
  const int64_t sequence_pages = (input.max_seq_len + plan.page_tokens - 1) / plan.page_tokens;
  int64_t pages = std::min(share / page_bytes, sequence_pages * input.max_batch_size);
  if (input.max_tokens) {
    if (*input.max_tokens < input.page_size) {
      return Status::invalid_input(
          fmt::format("kv_cache_config.max_tokens: {}: must be at least tokens_per_block {}",
                      *input.max_tokens, input.page_size));
    }
    pages = std::min<int64_t>(pages, *input.max_tokens / input.page_size);
  }
  pages = std::min<int64_t>(pages, std::numeric_limits<int>::max());
  plan.num_pages = static_cast<int>(pages);
  plan.kv_cache = pages * page_bytes;
  return plan;
}

MemoryPlan with_pages(const MemoryPlan& plan, int num_pages) {
  CHECK(num_pages >= 1 && num_pages <= plan.num_pages);
  MemoryPlan smaller = plan;
  smaller.kv_cache = plan.kv_cache / plan.num_pages * num_pages;
  smaller.num_pages = num_pages;
  return smaller;
}

std::string describe(const MemoryPlan& plan) {
  const int64_t total = plan.weights + plan.activations + plan.kv_cache;
  return fmt::format(
      "weights      {:>12}\n"
      "activations  {:>12}\n"
      "KV cache     {:>12}  {} pages of {} tokens: {} tokens\n"
      "together     {:>12}  of {} for this rank; pages cost memory when they are first used\n",
      size_text(plan.weights), size_text(plan.activations), size_text(plan.kv_cache),
      plan.num_pages, plan.page_tokens, int64_t{plan.num_pages} * plan.page_tokens,
      size_text(total), size_text(plan.available));
}

Result<int64_t> parse_meminfo(const std::string& text, const std::string& name) {
  constexpr std::string_view kKey = "MemAvailable:";
  constexpr std::string_view kUnit = " kB";
  for (const std::string_view line : split(text, '\n')) {
    if (!line.starts_with(kKey) || !line.ends_with(kUnit)) continue;
    const std::string_view number =
        line.substr(kKey.size(), line.size() - kKey.size() - kUnit.size());
    if (const std::optional<int64_t> kib = parse_int(trim(number))) return *kib * kKiB;
  }
  return Status::unavailable(name + ": has no line \"MemAvailable: N kB\"");
}

std::optional<int64_t> control_group_memory(const std::string& folder) {
  const Result<std::string> limit = read_system_file(join_path(folder, "memory.max"));
  const Result<std::string> used = read_system_file(join_path(folder, "memory.current"));
  const Result<std::string> stat = read_system_file(join_path(folder, "memory.stat"));
  if (!limit.is_ok() || !used.is_ok() || !stat.is_ok()) return std::nullopt;
  const std::optional<int64_t> limit_bytes = parse_int(trim(*limit));  // "max": none
  const std::optional<int64_t> used_bytes = parse_int(trim(*used));
  if (!limit_bytes || !used_bytes) return std::nullopt;
  // Cached files count as used until somebody needs their room.
  const int64_t cached = number_of(*stat, "inactive_file ").value_or(0);
  return std::max<int64_t>(*limit_bytes - *used_bytes + cached, 0);
}

Result<int64_t> available_memory() {
  constexpr const char* kPath = "/proc/meminfo";
  ASSIGN_OR_RETURN(const std::string text, read_system_file(kPath));
  ASSIGN_OR_RETURN(const int64_t available, parse_meminfo(text, kPath));
  return std::min(available, control_group_memory("/sys/fs/cgroup").value_or(available));
}

}  // namespace wideep::engine
