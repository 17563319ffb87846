// What a batch brings along, to where its ops read it: token ids, positions, places in the cache,
// rows whose logits are wanted. In one piece of memory, so that it reaches a device in one copy.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "base/stream.h"
#include "kernels/attention.h"
#include "kernels/transfer.h"
#include "models/forward_pass.h"
#include "models/model.h"

namespace wideep::models {

class BatchTables {
 public:
  static Result<std::unique_ptr<BatchTables>> create(const Stream& stream, int64_t max_rows);
  // Most that place() takes of the arena.
  static int64_t scratch_bytes(int64_t max_rows);

  // How the cache's pages are spread: block b of a sequence is on cp rank b % cp, as its page
  // b / cp.
  struct Paging {
    int page_size = 0;
    int cp = 1;
    int cp_rank = 0;
  };
  // Sets the pass's tables, of pass.num_rows rows; those beyond the batch's tokens only fill it up.
  // is_padded: there may be such rows, and the device learns how many are none. Good until the next
  // batch's.
  void place(const Batch& batch, const Paging& paging, bool is_padded, ForwardPass& pass);

 private:
  explicit BatchTables(std::unique_ptr<kernels::Staging> staging);

  std::unique_ptr<kernels::Staging> staging_;
  std::vector<kernels::AttentionSequence> sequences_;
};

}  // namespace wideep::models
