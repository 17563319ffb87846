// Stream: where an op runs. Every op of the kernels takes one.
//
// There are two kinds. On the CPU an op runs on the calling thread and the pool's helpers, and is
// done when it returns. On a CUDA stream it is done when the stream says so, which is why an op's
// buffers belong to its caller until then; matrices, pointers and spans that ops take are memory of
// the stream's device, but for what an op says is of the host.
#pragma once

#include <utility>

#include "base/status.h"
#include "base/thread_pool.h"

namespace wideep {

class OpContext;  // kernels/op_context.h: what the ops of a CUDA stream share

class Stream {
 public:
  // The pool must outlive the stream; the ranks of a local world share one pool.
  explicit Stream(ThreadPool& pool) : pool_(&pool) {}
  // Of a cudaStream_t, which outlives it as the context does. Ops of kernels/ need a context.
  static Stream of_cuda(ThreadPool& pool, void* handle, OpContext* context = nullptr) {
    Stream stream(pool);
    stream.cuda_ = handle;
    stream.context_ = context;
    stream.is_cuda_ = true;
    return stream;
  }

  ThreadPool& pool() const { return *pool_; }
  bool is_cuda() const { return is_cuda_; }
  // A cudaStream_t; null is the default stream.
  void* cuda() const { return cuda_; }
  OpContext& context() const {
    CHECK(context_ != nullptr);
    return *context_;
  }

  // The first failure of an op on this stream: ops return nothing, so that a chain of them is asked
  // once. What fails while it runs shows at the next wait for the stream.
  const Status& status() const { return status_; }
  void fail(Status status) {
    if (status_.is_ok()) status_ = std::move(status);
  }

 private:
  ThreadPool* pool_;
  void* cuda_ = nullptr;
  OpContext* context_ = nullptr;
  bool is_cuda_ = false;
  Status status_;
};

}  // namespace wideep
