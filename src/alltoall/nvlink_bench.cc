#include "alltoall/nvlink_bench.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "alltoall/nvlink_plan.h"
#include "base/cuda.h"
#include "base/float_formats.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "dist/world.h"

namespace wideep::alltoall {
namespace {

constexpr int kWarmupCalls = 3;

class Event {
 public:
  Event() { cudaEventCreate(&event_); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class Graph {
 public:
  Graph() = default;
  ~Graph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Captures body() on the stream; the stream is usable again also where body() fails.
  Status capture(cudaStream_t stream, const std::function<Status()>& body) {
    RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    const Status status = body();
    cudaGraph_t graph = nullptr;
    const Status ended = cuda_status("cudaStreamEndCapture", cudaStreamEndCapture(stream, &graph));
    if (!status.is_ok() || !ended.is_ok()) return status.is_ok() ? ended : status;
    const Status made =
        cuda_status("cudaGraphInstantiate", cudaGraphInstantiate(&executable_, graph, 0));
    cudaGraphDestroy(graph);
    return made;
  }
  Status launch(cudaStream_t stream) const {
    return cuda_status("cudaGraphLaunch", cudaGraphLaunch(executable_, stream));
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

double at_fraction(std::vector<double> values, double fraction) {
  std::ranges::sort(values);
  const auto last = static_cast<double>(values.size() - 1);
  return values[static_cast<size_t>(std::lround(fraction * last))];
}

// Of all ranks' times, [ranks][replays]: the slowest of each replay.
CallTime summary(const std::vector<double>& all, int ranks, int replays) {
  std::vector<double> slowest;
  std::vector<double> fastest;
  for (int i = 0; i < replays; ++i) {
    double most = 0;
    double least = 1e30;
    for (int r = 0; r < ranks; ++r) {
      most = std::max(most, all[static_cast<size_t>(r) * replays + i]);
      least = std::min(least, all[static_cast<size_t>(r) * replays + i]);
    }
    slowest.push_back(most);
    fastest.push_back(least);
  }
  return {at_fraction(slowest, 0.5), at_fraction(slowest, 0.99), at_fraction(fastest, 0.5)};
}

// The bytes that the busiest rank's links carry in one direction, from all ranks' routing.
void count_bytes(const BenchCase& bench, int ranks, const std::vector<int32_t>& all_slots,
                 BenchResult& result) {
  const int top_k = bench.shape.top_k;
  const int slots_per_rank = bench.shape.num_slots / ranks;
  const int64_t pairs = bench.most_tokens * top_k;
  std::vector<int64_t> out(static_cast<size_t>(ranks));
  std::vector<int64_t> in(static_cast<size_t>(ranks));
  std::vector<int64_t> placed(static_cast<size_t>(ranks));
  for (int source = 0; source < ranks; ++source) {
    for (int64_t token = 0; token < bench.most_tokens; ++token) {
      std::array<bool, kMaxNvlinkRanks> goes{};
      for (int k = 0; k < top_k; ++k) {
        const int slot = all_slots[source * pairs + token * top_k + k];
        if (slot < 0) continue;
        const int rank = slot / slots_per_rank;
        ++placed[rank];
        if (rank == source || goes[rank]) continue;
        goes[rank] = true;
        ++out[source];
        ++in[rank];
      }
    }
  }
  const int64_t busiest = std::max(std::ranges::max(out), std::ranges::max(in));
  const int64_t row = travel_bytes(bench.shape) + int64_t{4} * scale_columns(bench.shape);
  result.dispatch_bytes = busiest * row;
  result.combine_bytes = busiest * 2 * bench.shape.hidden_size;
  result.local_bytes = std::ranges::max(placed) * row;
}

// A rank's inputs on the device.
struct Inputs {
  Buffer x;
  Buffer scales;
  Buffer slots;
  Buffer weights;
  Buffer y;
};

template <typename T>
Result<Buffer> on_device(const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  ASSIGN_OR_RETURN(Buffer memory, device_buffer(std::max<int64_t>(bytes, 16)));
  RETURN_IF_CUDA_ERROR(
      cudaMemcpy(memory.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return memory;
}

Result<Inputs> make_inputs(const BenchCase& bench, int rank) {
  Random random(7, {static_cast<uint64_t>(rank)});
  const int64_t elements = int64_t{bench.num_tokens} * bench.shape.hidden_size;
  std::vector<uint16_t> x(static_cast<size_t>(elements));
  for (uint16_t& value : x) value = float_to_bf16(static_cast<float>(4 * random.uniform() - 2));
  std::vector<float> weights(bench.slots.size());
  for (float& weight : weights) weight = static_cast<float>(random.uniform());
  Inputs inputs;
  ASSIGN_OR_RETURN(inputs.x, on_device(x));
  ASSIGN_OR_RETURN(inputs.slots, on_device(bench.slots));
  ASSIGN_OR_RETURN(inputs.weights, on_device(weights));
  ASSIGN_OR_RETURN(inputs.y, device_buffer(std::max<int64_t>(2 * elements, 16)));
  return inputs;
}

}  // namespace

std::vector<int32_t> uniform_slots(uint64_t seed, int rank, int tokens, const GroupShape& shape) {
  Random random(seed, {static_cast<uint64_t>(rank)});
  std::vector<int32_t> all(static_cast<size_t>(shape.num_slots));
  std::iota(all.begin(), all.end(), 0);
  std::vector<int32_t> slots;
  for (int t = 0; t < tokens; ++t) {
    for (int k = 0; k < shape.top_k; ++k) {
      const auto other = k + random.below(static_cast<uint64_t>(shape.num_slots - k));
      std::swap(all[static_cast<size_t>(k)], all[other]);
      slots.push_back(all[static_cast<size_t>(k)]);
    }
  }
  return slots;
}

Result<CallTime> time_calls(dist::Communicator& group, Stream& stream, int calls, int replays,
                            const std::function<Status()>& body) {
  auto* const cuda = static_cast<cudaStream_t>(stream.cuda());
  const Event begin;
  const Event end;
  Graph graph;
  RETURN_IF_ERROR(graph.capture(cuda, [&]() -> Status {
    for (int i = 0; i < kWarmupCalls; ++i) {
      RETURN_IF_ERROR(body());
    }
    RETURN_IF_CUDA_ERROR(cudaEventRecordWithFlags(begin.get(), cuda, cudaEventRecordExternal));
    for (int i = 0; i < calls; ++i) {
      RETURN_IF_ERROR(body());
    }
    RETURN_IF_CUDA_ERROR(cudaEventRecordWithFlags(end.get(), cuda, cudaEventRecordExternal));
    return Status::ok();
  }));
  std::vector<double> own;
  for (int i = -2; i < replays; ++i) {
    RETURN_IF_ERROR(group.barrier());
    RETURN_IF_ERROR(graph.launch(cuda));
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(cuda));
    float milliseconds = 0;
    RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
    if (i >= 0) own.push_back(static_cast<double>(milliseconds) * 1e3 / calls);
  }
  std::vector<double> all(own.size() * static_cast<size_t>(group.size()));
  RETURN_IF_ERROR(
      group.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all))));
  return summary(all, group.size(), replays);
}

Result<BenchResult> bench_all_to_all(dist::Communicator& group, Stream& stream,
                                     const BenchCase& bench) {
  ASSIGN_OR_RETURN(const std::unique_ptr<AllToAll> all_to_all,
                   AllToAll::create(group, bench.shape));
  ASSIGN_OR_RETURN(const Inputs inputs, make_inputs(bench, group.rank()));
  const int64_t hidden = bench.shape.hidden_size;
  const ConstMatrixView x = {inputs.x.data(), DType::kBF16, bench.num_tokens, hidden, hidden};
  const MatrixView y = {inputs.y.data(), DType::kBF16, bench.num_tokens, hidden, hidden};
  RETURN_IF_ERROR(
      all_to_all->plan(stream, {.num_tokens = bench.num_tokens,
                                .slots = {inputs.slots.as<int32_t>(), bench.slots.size()},
                                .weights = inputs.weights.as<float>(),
                                .most_tokens = bench.most_tokens}));
  RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());
  RETURN_IF_ERROR(group.barrier());
  BenchResult result;
  const auto dispatch = [&] { return all_to_all->dispatch(stream, x).status(); };
  const auto combine = [&] { return all_to_all->combine(stream, y); };
  const auto both = [&]() -> Status {
    RETURN_IF_ERROR(dispatch());
    return combine();
  };
  ASSIGN_OR_RETURN(result.dispatch,
                   time_calls(group, stream, bench.calls, bench.replays, dispatch));
  ASSIGN_OR_RETURN(result.combine, time_calls(group, stream, bench.calls, bench.replays, combine));
  ASSIGN_OR_RETURN(result.pair, time_calls(group, stream, bench.calls, bench.replays, both));
  std::vector<int32_t> own(static_cast<size_t>(bench.most_tokens * bench.shape.top_k), -1);
  std::ranges::copy(bench.slots, own.begin());
  std::vector<int32_t> all(own.size() * static_cast<size_t>(group.size()));
  RETURN_IF_ERROR(
      group.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all))));
  count_bytes(bench, group.size(), all, result);
  RETURN_IF_ERROR(group.barrier());
  return result;
}

Result<BenchResult> bench_on_local_ranks(int num_ranks,
                                         const std::function<BenchCase(int rank)>& make_case) {
  ASSIGN_OR_RETURN(dist::World world, dist::World::local(num_ranks));
  ThreadPool pool(1);
  int devices = 0;
  RETURN_IF_CUDA_ERROR(cudaGetDeviceCount(&devices));
  BenchResult result;
  RETURN_IF_ERROR(world.run([&](dist::Communicator& group) -> Status {
    RETURN_IF_CUDA_ERROR(cudaSetDevice(group.rank() % devices));
    cudaStream_t handle = nullptr;
    RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking));
    Stream stream = Stream::of_cuda(pool, handle);
    const Result<BenchResult> own = bench_all_to_all(group, stream, make_case(group.rank()));
    cudaStreamDestroy(handle);
    if (own.is_ok() && group.rank() == 0) result = own.value();
    return own.status();
  }));
  return result;
}

}  // namespace wideep::alltoall
