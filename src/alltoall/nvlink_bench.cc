#include "alltoall/nvlink_bench.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "alltoall/nvlink_plan.h"
#include "base/cuda.h"
#include "base/float_formats.h"
#include "base/random.h"

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

template <typename T>
Result<Buffer> on_device(const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  ASSIGN_OR_RETURN(Buffer memory, device_buffer(std::max<int64_t>(bytes, 16)));
  RETURN_IF_CUDA_ERROR(
      cudaMemcpy(memory.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return memory;
}

}  // namespace

std::vector<int32_t> draw_slots(uint64_t seed, int rank, int tokens, int num_slots, int top_k,
                                std::span<const double> weights) {
  Random random(seed, {static_cast<uint64_t>(rank)});
  std::vector<int32_t> slots;
  std::vector<std::pair<double, int32_t>> keys;
  for (int t = 0; t < tokens; ++t) {
    // The smallest of exponential variates of rates w are draws by w without putting back
    // (Efraimidis and Spirakis, 2006).
    keys.clear();
    for (int s = 0; s < num_slots; ++s) {
      const double weight = weights.empty() ? 1.0 : weights[static_cast<size_t>(s)];
      if (weight > 0) keys.emplace_back(-std::log1p(-random.uniform()) / weight, s);
    }
    std::ranges::partial_sort(keys, keys.begin() + top_k);
    for (int k = 0; k < top_k; ++k) slots.push_back(keys[static_cast<size_t>(k)].second);
  }
  return slots;
}

Result<std::vector<int64_t>> rows_between(dist::Communicator& group, const GroupShape& shape,
                                          const BenchCase& bench) {
  const int size = group.size();
  const int slots_per_rank = shape.num_slots / size;
  std::vector<int64_t> own(static_cast<size_t>(size));
  for (int token = 0; token < bench.num_tokens; ++token) {
    std::vector<bool> goes(static_cast<size_t>(size));
    for (int k = 0; k < shape.top_k; ++k) {
      const int slot = bench.slots[static_cast<size_t>(token) * shape.top_k + k];
      if (slot >= 0) goes[static_cast<size_t>(slot / slots_per_rank)] = true;
    }
    for (int rank = 0; rank < size; ++rank) own[rank] += goes[rank] ? 1 : 0;
  }
  std::vector<int64_t> all(own.size() * own.size());
  RETURN_IF_ERROR(
      group.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all))));
  return all;
}

Traffic busiest(const std::vector<int64_t>& rows, int size) {
  Traffic most;
  for (int rank = 0; rank < size; ++rank) {
    Traffic out;
    Traffic in;
    for (int peer = 0; peer < size; ++peer) {
      out.all_rows += rows[rank * size + peer];
      in.all_rows += rows[peer * size + rank];
    }
    out.link_rows = out.all_rows - rows[rank * size + rank];
    in.link_rows = in.all_rows - rows[rank * size + rank];
    most.link_rows = std::max({most.link_rows, out.link_rows, in.link_rows});
    most.all_rows = std::max({most.all_rows, out.all_rows, in.all_rows});
  }
  return most;
}

Result<CallTime> time_calls(dist::Communicator& group, Stream& stream, int calls, int replays,
                            const std::function<Status()>& body) {
  auto* const cuda = stream_of(stream);
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

Result<BenchRows> BenchRows::create(int rank, int64_t tokens, int hidden_size) {
  Random random(7, {static_cast<uint64_t>(rank)});
  std::vector<uint16_t> x(static_cast<size_t>(tokens * hidden_size));
  for (uint16_t& value : x) {  // sixteen bits are more than a BF16 in [-2, 2) has
    value = float_to_bf16(static_cast<float>(random.next() >> 48) / 16384 - 2);
  }
  BenchRows rows;
  ASSIGN_OR_RETURN(rows.x, on_device(x));
  ASSIGN_OR_RETURN(rows.y, device_buffer(2 * tokens * hidden_size));
  return rows;
}

Result<BenchResult> bench_all_to_all(dist::Communicator& group, Stream& stream,
                                     AllToAll& all_to_all, const GroupShape& shape,
                                     const BenchRows& rows, const BenchCase& bench) {
  Random random(8, {static_cast<uint64_t>(group.rank())});
  std::vector<float> values(bench.slots.size());
  for (float& weight : values) weight = static_cast<float>(random.uniform());
  ASSIGN_OR_RETURN(const Buffer slots, on_device(bench.slots));
  ASSIGN_OR_RETURN(const Buffer weights, on_device(values));
  const int64_t hidden = shape.hidden_size;
  const ConstMatrixView x = {rows.x.data(), DType::kBF16, bench.num_tokens, hidden, hidden};
  const MatrixView y = {rows.y.data(), DType::kBF16, bench.num_tokens, hidden, hidden};
  RETURN_IF_ERROR(all_to_all.plan(stream, {.num_tokens = bench.num_tokens,
                                           .slots = {slots.as<int32_t>(), bench.slots.size()},
                                           .weights = weights.as<float>(),
                                           .most_tokens = bench.most_tokens}));
  RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());
  RETURN_IF_ERROR(group.barrier());
  BenchResult result;
  const auto dispatch = [&] { return all_to_all.dispatch(stream, x).status(); };
  const auto combine = [&] { return all_to_all.combine(stream, y); };
  const auto both = [&]() -> Status {
    RETURN_IF_ERROR(dispatch());
    return combine();
  };
  ASSIGN_OR_RETURN(result.dispatch,
                   time_calls(group, stream, bench.calls, bench.replays, dispatch));
  ASSIGN_OR_RETURN(result.combine, time_calls(group, stream, bench.calls, bench.replays, combine));
  ASSIGN_OR_RETURN(result.pair, time_calls(group, stream, bench.calls, bench.replays, both));
  RETURN_IF_ERROR(group.barrier());  // before the routing's memory goes
  return result;
}

}  // namespace wideep::alltoall
