// Stream: where an op runs. Every op of the kernels takes one.
//
// Today there is one kind: the CPU. An op runs on the calling thread and the pool's helpers, and is
// done when it returns. CUDA streams will be the second kind; their ops are done when the stream
// says so, which is why an op's buffers belong to its caller until then.
#pragma once

#include "base/thread_pool.h"

namespace wideep {

class Stream {
 public:
  // The pool must outlive the stream; the ranks of a local world share one pool.
  explicit Stream(ThreadPool& pool) : pool_(&pool) {}

  ThreadPool& pool() const { return *pool_; }

 private:
  ThreadPool* pool_;
};

}  // namespace wideep
