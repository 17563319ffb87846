#include "kernels/op_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/cuda.h"
#include "kernels/adapters/blas.h"
#include "kernels/adapters/tensor_map.h"
#include "kernels/stream_clock.h"

namespace wideep {

Result<std::unique_ptr<OpContext>> OpContext::create(const OpContextOptions& options) {
  std::unique_ptr<OpContext> context(new OpContext());
  int device = 0;
  RETURN_IF_CUDA_ERROR(cudaGetDevice(&device));
  RETURN_IF_CUDA_ERROR(
      cudaDeviceGetAttribute(&context->num_sms_, cudaDevAttrMultiProcessorCount, device));
  ASSIGN_OR_RETURN(context->workspace_, device_buffer(options.workspace_bytes));
  ASSIGN_OR_RETURN(context->counter_, device_buffer(sizeof(uint32_t)));
  ASSIGN_OR_RETURN(context->blas_, kernels::Blas::create());
  ASSIGN_OR_RETURN(context->tensor_maps_, kernels::TensorMapEncoder::create());
  return context;
}

// Lap i of the clock is op i's.
struct OpContext::Profile {
  explicit Profile(const Stream& stream) : clock(kernels::StreamClock::create(stream)) {}

  std::unique_ptr<kernels::StreamClock> clock;
  std::vector<std::string> ops;
};

OpContext::OpContext() = default;
OpContext::~OpContext() = default;

namespace {

// What the host needs to put a step's ops on the stream.
constexpr std::chrono::milliseconds kHeadStart{30};

void CUDART_CB sleep_on_stream(void*) {
  std::this_thread::sleep_for(kHeadStart);
}

}  // namespace

Status OpContext::begin_profile(Stream& stream) {
  const auto cuda = stream_of(stream);
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(cuda));
  RETURN_IF_CUDA_ERROR(cudaLaunchHostFunc(cuda, sleep_on_stream, nullptr));
  profile_ = std::make_unique<Profile>(stream);
  profile_->clock->mark(stream, 0);
  return stream.status();
}

Result<std::vector<kernels::OpTime>> OpContext::end_profile(Stream& stream) {
  CHECK(profile_ != nullptr);
  const std::unique_ptr<Profile> profile = std::move(profile_);
  ASSIGN_OR_RETURN(const std::vector<kernels::Lap> laps, profile->clock->laps(stream));
  std::vector<kernels::OpTime> times;
  for (const kernels::Lap& lap : laps) {
    const std::string& op = profile->ops[lap.label];
    auto time = std::ranges::find(times, op, &kernels::OpTime::op);
    if (time == times.end()) time = times.insert(times.end(), {op, 0, 0});
    ++time->calls;
    time->us += lap.us;
  }
  return times;
}

namespace kernels {

void check_launch(Stream& stream, const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) {
    OpContext::Profile* profile = stream.context().profile_.get();
    if (profile == nullptr) return;
    profile->ops.emplace_back(op);
    profile->clock->mark(stream, static_cast<int>(profile->ops.size()));
    return;
  }
  stream.fail(Status::unavailable(fmt::format("CUDA: {}: {}", op, cudaGetErrorString(error))));
}

}  // namespace kernels

}  // namespace wideep
