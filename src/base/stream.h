// Stream: where an op runs. Every op of the kernels takes one.
//
// There are two kinds. On the CPU an op runs on the calling thread and the pool's helpers, and is
// done when it returns. On a CUDA stream it is done when the stream says so, which is why an op's
// buffers belong to its caller until then.
#pragma once

#include "base/thread_pool.h"

namespace wideep {

class Stream {
 public:
  // The pool must outlive the stream; the ranks of a local world share one pool.
  explicit Stream(ThreadPool& pool) : pool_(&pool) {}
  // Of a cudaStream_t, which outlives it too.
  static Stream of_cuda(ThreadPool& pool, void* handle) {
    Stream stream(pool);
    stream.cuda_ = handle;
    stream.is_cuda_ = true;
    return stream;
  }

  ThreadPool& pool() const { return *pool_; }
  bool is_cuda() const { return is_cuda_; }
  // A cudaStream_t; null is the default stream.
  void* cuda() const { return cuda_; }

 private:
  ThreadPool* pool_;
  void* cuda_ = nullptr;
  bool is_cuda_ = false;
};

}  // namespace wideep
