// How experts get from slots into staging memory, on the same rank or another, and from there into
// slots. What is copied when, migration.h says; all ranks know it.
//
// A boundary is the beginning of an iteration: begin_boundary(), commits, sends and receives,
// end_boundary(), by all ranks in the same order. What was sent goes then or, on GPUs, during the
// iteration, when the links have nothing else to do.
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

  // Rows have been exchanged by what was put on the model's stream last, and computing comes next:
  // a time for something that was sent.
  virtual Status links_are_idle() { return Status::ok(); }
  // Everything of the iteration has been put on the model's stream.
  virtual Status end_iteration() { return Status::ok(); }

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

// Experts on GPUs: the copy engine puts them into the target's staging memory, over NVLink, while
// the model runs; commits are copies on the model's stream. In an iteration that says when the
// links are idle one expert goes each time, and those that are left after it; in others, whose
// exchanges are small, all go at once. Collective; group and stream outlive the result.
Result<std::unique_ptr<ExpertCopies>> make_device_copies(Stream& stream, dist::Communicator& group,
                                                         const StagingShape& shape);

}  // namespace wideep::moe
