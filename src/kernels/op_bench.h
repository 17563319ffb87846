// Times ops on a GPU, and what the GPU can do at all, for `wideep bench ops`. CUDA only.
//
// An op's time is that of a call in a captured graph of many, one behind the other, as a model
// makes them: the median over replays of the graph. Calls take inputs in turn that are together
// larger than the second cache, so that nothing is found there that a model would not find.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/cuda.h"
#include "base/status.h"
#include "base/stream.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "kernels/op_context.h"

namespace wideep::kernels {

// A stream on the current device, and random data there.
class OpBench {
 public:
  static Result<std::unique_ptr<OpBench>> create(int replays);

  Stream& stream() { return *stream_; }

  // [rows, columns] of kBF16, normally distributed: the time of products depends on the data.
  Result<Buffer> random_rows(int64_t rows, int64_t columns, float deviation = 1);

  // Microseconds of a call of body(i), 0 <= i < calls, which puts work on the stream.
  Result<double> microseconds(int calls, const std::function<void(int)>& body);

 private:
  OpBench() : pool_(1) {}

  int replays_ = 0;
  uint64_t seed_ = 0;
  ThreadPool pool_;
  CudaStream handle_;
  std::unique_ptr<OpContext> context_;
  std::unique_ptr<Stream> stream_;
};

// Of the machine, measured.
struct MachineLimits {
  double copy_gbps = 0;    // device to device, bytes read and bytes written together
  double read_gbps = 0;    // reading alone
  double bf16_tflops = 0;  // cuBLASLt, 8192 x 8192 x 8192
  double fp8_tflops = 0;   // the same with 1 x 128 and 128 x 128 scales
};
Result<MachineLimits> measure_limits(OpBench& bench);

enum class OpLimit { kRead, kCopy, kBf16, kFp8 };

// An op at one size. bytes: the fewest that move through the device's memory, each input read once
// and each output written once.
struct OpCase {
  std::string op;
  std::string shape;
  double bytes = 0;
  double flops = 0;
  OpLimit limit = OpLimit::kCopy;  // what it is held against
  // Microseconds of a call.
  std::function<Result<double>(OpBench&)> run;
};

// How many sets of inputs of so many bytes exceed the second cache several times; at most 32.
int input_sets(double bytes);

// Matrix products and quantisation at the shapes of DeepSeek-V3.
std::vector<OpCase> gemm_cases();
// Prefill and decode of latent and grouped-query attention.
std::vector<OpCase> attention_cases();

}  // namespace wideep::kernels
