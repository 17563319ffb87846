// The fixed allocation plan of a rank: what its memory goes to, decided once at start.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"

namespace wideep::engine {

struct MemoryPlanInput {
  // This rank's share of the memory that was free on its host before anything was loaded.
  int64_t available_bytes = 0;
  int64_t weight_bytes = 0;
  int64_t activation_bytes = 0;  // with the logits
  int64_t kv_bytes_per_token = 0;
  int page_size = 0;                // tokens of a page on this rank
  int cp = 1;                       // ranks that share a page's positions
  double free_memory_fraction = 1;  // of what weights and activations leave
  std::optional<int> max_tokens;    // of the KV cache of a rank
  int max_batch_size = 0;
  int max_seq_len = 0;
};

// Bytes of one rank.
struct MemoryPlan {
  int64_t available = 0;
  int64_t weights = 0;
  int64_t activations = 0;
  int64_t kv_cache = 0;
  int num_pages = 0;
  int page_tokens = 0;  // positions of a page, over all CP ranks
};

// The KV cache takes its share of what is left, and not more than max_tokens nor than
// max_batch_size sequences of max_seq_len tokens. kUnavailable, naming both numbers, where not even
// a page is left; kInvalidInput where max_tokens is less than a page.
Result<MemoryPlan> plan_memory(const MemoryPlanInput& input);

// The same plan with another number of pages, the least of the replica's ranks.
MemoryPlan with_pages(const MemoryPlan& plan, int num_pages);

// The plan as a few lines for people.
std::string describe(const MemoryPlan& plan);

// Memory of this host that a program can have without anybody being swapped out: the system's
// estimate, or less where a control group limits this process.
Result<int64_t> available_memory();
// What the control group (version 2) of a folder leaves its processes; nothing where there is none
// or no limit.
std::optional<int64_t> control_group_memory(const std::string& folder);
// What the text of /proc/meminfo says; `name` opens the errors.
Result<int64_t> parse_meminfo(const std::string& text, const std::string& name);

}  // namespace wideep::engine
