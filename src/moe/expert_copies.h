// How experts get from slots into staging memory, on the same rank or another, and from there into
// slots. What is copied when, migration.h says; all ranks know it.
//
// A boundary is the beginning of an iteration: begin_boundary(), commits, sends and receives,
// end_boundary(), by all ranks in the same order.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "base/status.h"
#include "base/stream.h"
#include "dist/communicator.h"
#include "moe/slot_bytes.h"

namespace wideep::moe {

class ExpertCopies {
 public:
  // Of boundaries whose copies are done, where copies are done when they return.
  static constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

  virtual ~ExpertCopies() = default;
  ExpertCopies(const ExpertCopies&) = delete;
  ExpertCopies& operator=(const ExpertCopies&) = delete;

  virtual Status begin_boundary() = 0;
  // An expert to a place of the staging memory of rank `target`, which may be this one; the target
  // calls receive() for what comes from others.
  virtual Status send(const SlotBytes& from, int target, int place) = 0;
  virtual Status receive(int source, int place) = 0;
  // From a place of this rank's staging memory, where the expert is by now.
  virtual Status commit(int place, const SlotBytes& slot) = 0;
  virtual Status end_boundary() = 0;

  // Boundaries, from the first on, of which this rank's sends and commits are done. Does not wait.
  virtual int64_t num_done() = 0;

 protected:
  ExpertCopies() = default;
};

struct StagingShape {
  int64_t gate_up_bytes = 0;
  int64_t down_bytes = 0;
  int places = 0;  // of a rank

  int64_t expert_bytes() const { return gate_up_bytes + down_bytes; }
};

// Experts in the host's memory, sent as messages: what one boundary sends, the next receives.
Result<std::unique_ptr<ExpertCopies>> make_host_copies(dist::Communicator& group,
                                                       const StagingShape& shape);

// Experts on GPUs: the copy engine puts them into the target's staging memory, over NVLink, on a
// stream of the lowest priority, while the model runs; commits are copies on the model's stream.
// Collective; group and stream outlive the result.
Result<std::unique_ptr<ExpertCopies>> make_device_copies(Stream& stream, dist::Communicator& group,
                                                         const StagingShape& shape);

}  // namespace wideep::moe
