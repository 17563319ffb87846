#include "kernels/op_bench.h"

#include <algorithm>
#include <utility>

#include "kernels/adapters/blas.h"
#include "kernels/linear.h"
#include "kernels/op_bench_kernels.h"
#include "kernels/quantize.h"

namespace wideep::kernels {
namespace {

// An instantiated graph; ends itself.
class Graph {
 public:
  // What body puts on the stream.
  static Result<Graph> capture(cudaStream_t stream, const std::function<void()>& body) {
    cudaGraph_t recorded = nullptr;
    RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    body();
    RETURN_IF_CUDA_ERROR(cudaStreamEndCapture(stream, &recorded));
    Graph graph;
    const cudaError_t error = cudaGraphInstantiate(&graph.graph_, recorded, 0);
    cudaGraphDestroy(recorded);
    RETURN_IF_ERROR(cuda_status("cudaGraphInstantiate", error));
    return graph;
  }
  Graph(Graph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  Graph& operator=(Graph&&) = delete;
  ~Graph() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }

  Status launch(cudaStream_t stream) const {
    RETURN_IF_CUDA_ERROR(cudaGraphLaunch(graph_, stream));
    return Status::ok();
  }

 private:
  Graph() = default;
  cudaGraphExec_t graph_ = nullptr;
};

class Event {
 public:
  static Result<Event> create() {
    Event event;
    RETURN_IF_CUDA_ERROR(cudaEventCreate(&event.event_));
    return event;
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  cudaEvent_t get() const { return event_; }

 private:
  Event() = default;
  cudaEvent_t event_ = nullptr;
};

constexpr int64_t kLargeBytes = int64_t{1} << 30;
constexpr int kLargeProduct = 8192;  // rows, outputs and inputs
constexpr double kCacheBytes = 50e6;

Result<double> dense_tflops(OpBench& bench, DType dtype) {
  const int64_t n = kLargeProduct;
  ASSIGN_OR_RETURN(const Buffer floats, bench.random_rows(2 * n, n));
  ASSIGN_OR_RETURN(const Buffer y, device_buffer(n * n * dtype_size(DType::kBF16)));
  ASSIGN_OR_RETURN(const Buffer x, device_buffer(quantized_bytes(n, n)));
  ASSIGN_OR_RETURN(const Buffer weight, device_buffer(device_weight_bytes(n, n, dtype)));
  const ConstMatrixView rows = {floats.data(), DType::kBF16, 2 * n, n, n};
  store_device_weight_rows(bench.stream(), {rows.row_range(n, n), 0, n, dtype, weight.data()});
  BlasProduct product;
  product.tokens = n;
  product.out = n;
  product.in = n;
  product.dtype = dtype;
  product.x = {floats.data(), n};
  product.weight = {weight.data(), n};
  product.y = y.data();
  product.y_stride = n;
  if (dtype == DType::kF8E4M3) {
    const QuantizedRows quantized = quantized_rows(x.data(), n, n);
    quantize_rows(bench.stream(), {rows.row_range(0, n), nullptr, quantized});
    product.x = {quantized.data.data, n};
    product.x_scales = quantized.scales;
    product.weight_scales = device_weight(weight.data(), n, n, dtype).scales;
  }
  ASSIGN_OR_RETURN(const double us, bench.microseconds(4, [&](int) {
    bench.stream().context().blas().multiply(bench.stream(), product);
  }));
  return 2.0 * static_cast<double>(n * n * n) / us * 1e-6;
}

}  // namespace

Result<std::unique_ptr<OpBench>> OpBench::create(int replays) {
  std::unique_ptr<OpBench> bench(new OpBench());
  bench->replays_ = replays;
  ASSIGN_OR_RETURN(bench->handle_, CudaStream::create());
  ASSIGN_OR_RETURN(bench->context_, OpContext::create());
  bench->stream_ = std::make_unique<Stream>(
      Stream::of_cuda(bench->pool_, bench->handle_.get(), bench->context_.get()));
  return bench;
}

Result<Buffer> OpBench::random_rows(int64_t rows, int64_t columns, float deviation) {
  ASSIGN_OR_RETURN(Buffer buffer, device_buffer(rows * columns * dtype_size(DType::kBF16)));
  fill_normal(*stream_, {buffer.data(), DType::kBF16, rows, columns, columns}, deviation, ++seed_);
  return buffer;
}

Result<double> OpBench::microseconds(int calls, const std::function<void(int)>& body) {
  // Libraries choose their algorithms in the first calls, and modules are loaded.
  for (int i = 0; i < calls; ++i) body(i);
  RETURN_IF_ERROR(handle_.synchronize());
  RETURN_IF_ERROR(stream_->status());
  ASSIGN_OR_RETURN(const Graph graph, Graph::capture(handle_.get(), [&] {
                     for (int i = 0; i < calls; ++i) body(i);
                   }));
  ASSIGN_OR_RETURN(const Event begin, Event::create());
  ASSIGN_OR_RETURN(const Event end, Event::create());
  std::vector<float> milliseconds;
  for (int replay = 0; replay < replays_; ++replay) {
    RETURN_IF_CUDA_ERROR(cudaEventRecord(begin.get(), handle_.get()));
    RETURN_IF_ERROR(graph.launch(handle_.get()));
    RETURN_IF_CUDA_ERROR(cudaEventRecord(end.get(), handle_.get()));
    RETURN_IF_ERROR(handle_.synchronize());
    float time = 0;
    RETURN_IF_CUDA_ERROR(cudaEventElapsedTime(&time, begin.get(), end.get()));
    milliseconds.push_back(time);
  }
  RETURN_IF_ERROR(stream_->status());
  std::sort(milliseconds.begin(), milliseconds.end());
  return milliseconds[milliseconds.size() / 2] * 1e3 / calls;
}

Result<MachineLimits> measure_limits(OpBench& bench) {
  MachineLimits limits;
  {
    ASSIGN_OR_RETURN(const Buffer from, bench.random_rows(kLargeBytes / 2, 1));
    ASSIGN_OR_RETURN(const Buffer to, device_buffer(kLargeBytes));
    ASSIGN_OR_RETURN(const double copy, bench.microseconds(4, [&](int) {
      copy_by_threads(bench.stream(), from.span<std::byte>(kLargeBytes), to.data());
    }));
    limits.copy_gbps = 2e-3 * kLargeBytes / copy;
    ASSIGN_OR_RETURN(const double read, bench.microseconds(4, [&](int) {
      read_bytes(bench.stream(), from.span<std::byte>(kLargeBytes), to.as<uint32_t>());
    }));
    limits.read_gbps = 1e-3 * kLargeBytes / read;
  }
  ASSIGN_OR_RETURN(limits.bf16_tflops, dense_tflops(bench, DType::kBF16));
  ASSIGN_OR_RETURN(limits.fp8_tflops, dense_tflops(bench, DType::kF8E4M3));
  return limits;
}

int input_sets(double bytes) {
  return static_cast<int>(std::clamp(6 * kCacheBytes / std::max(bytes, 1.0), 1.0, 32.0));
}

}  // namespace wideep::kernels
