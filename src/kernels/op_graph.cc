#include "kernels/op_graph.h"

#include "base/check.h"

#ifdef WIDEEP_CUDA
#include "base/cuda.h"
#include "kernels/op_context.h"
#endif

namespace wideep::kernels {

#ifdef WIDEEP_CUDA

namespace {

class CudaOpGraph : public OpGraph {
 public:
  explicit CudaOpGraph(cudaGraphExec_t graph) : graph_(graph) {}
  ~CudaOpGraph() override { cudaGraphExecDestroy(graph_); }

  void replay(Stream& stream) override {
    cudaGraphLaunch(graph_, stream_of(stream));
    check_launch(stream, "a decode step's graph");
  }

 private:
  cudaGraphExec_t graph_;
};

}  // namespace

Result<std::unique_ptr<OpGraph>> OpGraph::capture(Stream& stream,
                                                  const std::function<Status()>& body) {
  CHECK(stream.is_cuda());
  const auto cuda = stream_of(stream);
  // Of this thread alone: others load weights or wait for streams of their own.
  RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(cuda, cudaStreamCaptureModeThreadLocal));
  Status recorded = body();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(cuda, &graph);
  if (recorded.is_ok()) recorded = cuda_status("cudaStreamEndCapture", ended);
  if (!recorded.is_ok()) {
    if (graph != nullptr) cudaGraphDestroy(graph);
    return recorded;
  }
  cudaGraphExec_t executable = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  RETURN_IF_ERROR(cuda_status("cudaGraphInstantiate", made));
  return std::unique_ptr<OpGraph>(std::make_unique<CudaOpGraph>(executable));
}

#else

Result<std::unique_ptr<OpGraph>> OpGraph::capture(Stream& stream, const std::function<Status()>&) {
  CHECK(stream.is_cuda());
  return Status::unavailable("a graph of ops: this build has no CUDA");
}

#endif

}  // namespace wideep::kernels
