// A second stream of a GPU, for work that may run beside what its main stream does: a chain of
// small ops leaves most of a GPU idle.
#pragma once

#include <memory>

#include "base/status.h"
#include "base/stream.h"
#include "base/thread_pool.h"

namespace wideep::kernels {

// Used by the thread of the main stream. May be captured in a graph with it, from fork to join.
class SideStream {
 public:
  // On the current GPU, with an OpContext of its own. kUnavailable in a build without CUDA.
  static Result<std::unique_ptr<SideStream>> create(ThreadPool& pool);
  virtual ~SideStream() = default;

  // Its ops must not use memory that ops of the main stream use meanwhile.
  virtual Stream& stream() = 0;
  // What follows on the side waits for what is on the main stream now.
  virtual void fork(Stream& main) = 0;
  // What follows on the main stream waits for what is on the side, whose failure becomes the main
  // stream's. Nothing happens where it has been joined since the last fork.
  virtual void join(Stream& main) = 0;

 protected:
  SideStream() = default;
};

}  // namespace wideep::kernels
