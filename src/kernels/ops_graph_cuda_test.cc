// The ops of a layer's experts and of its rows' edges in one CUDA graph: nothing in them waits,
// allocates, or looks at what only the device knows.
#include "kernels/cuda_testing.h"
#include "kernels/elementwise.h"
#include "kernels/heads.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "kernels/rope.h"
#include "kernels/router.h"

namespace wideep::kernels {
namespace {

constexpr int kTokens = 700;
constexpr int kHidden = 64;
constexpr int kExperts = 16;
constexpr int kTopK = 4;
constexpr int kPairs = kTokens * kTopK;
constexpr int kAlignment = 8;
constexpr int kLastTokens = 5;

// Everything that the ops write, in memory of the device or of the host.
struct Buffers {
  MatrixView x;       // [tokens, hidden]
  MatrixView table;   // [tokens, 16]
  MatrixView normed;  // [tokens, hidden]
  MatrixView permuted;
  MatrixView y;     // [tokens, hidden]
  MatrixView last;  // [last tokens, hidden]
  int32_t* ids;
  float* weights;
  int* offsets;
  int* rows;
  int* pairs;
};
struct Inputs {
  ConstMatrixView embeddings;
  std::span<const int> tokens;
  std::span<const int> positions;
  std::span<const int> last;
};

void run_layer(Stream& stream, const Inputs& in, const Buffers& b) {
  const std::vector<double> inv_freq = {1, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.005};
  embedding(stream, in.embeddings, in.tokens, b.x);
  rope_table(stream, {in.positions, inv_freq, 1, b.table});
  rope(stream, {in_place(b.x, 32, 2), {}, b.table, true});
  norm_heads(stream, {b.x, 32, 2, 32, nullptr, 1e-6F});
  rms_norm(stream, {b.x, nullptr, 1e-6F, b.normed});
  route(stream, {.logits = ConstMatrixView(b.normed).column_range(0, kExperts),
                 .top_k = kTopK,
                 .normalize = true,
                 .ids = b.ids,
                 .weights = b.weights});
  make_permutation(stream,
                   {{b.ids, kPairs}, 0, kExperts, b.offsets, b.rows, b.pairs, kAlignment, nullptr});
  const auto most = static_cast<size_t>(max_permuted_rows(kPairs, kExperts, kAlignment));
  gather_rows(stream, {b.normed, {b.pairs, most}, kTopK, nullptr, b.permuted});
  combine_rows(stream, {b.permuted, {b.rows, kPairs}, b.weights, kTopK, b.y});
  add(stream, b.x, b.y);
  pick_rows(stream, b.y, in.last, b.last);
}

class OpsGraphCudaTest : public CudaTest {};

TEST_F(OpsGraphCudaTest, ReplaysGiveTheCpusResultsForNewInputs) {
  const int64_t max_rows = max_permuted_rows(kPairs, kExperts, kAlignment);
  const TestMatrix embeddings = random_matrix(random_, 100, kHidden);
  const DeviceMatrix device_embeddings(embeddings, DType::kF32);
  const std::vector<int> last = {3, 0, 699, 12, 350};
  const DeviceVector<int> device_last(last);
  const DeviceVector<int> tokens(std::vector<int>(kTokens, 0));
  const DeviceVector<int> positions(std::vector<int>(kTokens, 0));
  const DeviceVector<int32_t> ids(std::vector<int32_t>(kPairs, -7));
  const DeviceVector<float> weights(std::vector<float>(kPairs, NAN));
  const DeviceVector<int> offsets(std::vector<int>(kExperts + 1, -7));
  const DeviceVector<int> rows(std::vector<int>(kPairs, -7));
  const DeviceVector<int> pairs(std::vector<int>(max_rows, -7));
  const DeviceMatrix x(TestMatrix(kTokens, kHidden), DType::kF32);
  const DeviceMatrix table(TestMatrix(kTokens, 16), DType::kF32);
  const DeviceMatrix normed(TestMatrix(kTokens, kHidden), DType::kF32);
  const DeviceMatrix permuted(TestMatrix(max_rows, kHidden), DType::kF32);
  const DeviceMatrix y(TestMatrix(kTokens, kHidden), DType::kF32);
  const DeviceMatrix picked(TestMatrix(kLastTokens, kHidden), DType::kF32);

  const auto handle = stream_of(stream());
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(handle, cudaStreamCaptureModeGlobal), cudaSuccess);
  run_layer(stream(),
            {device_embeddings.view(), tokens.span(), positions.span(), device_last.span()},
            {x.view(), table.view(), normed.view(), permuted.view(), y.view(), picked.view(),
             ids.data(), weights.data(), offsets.data(), rows.data(), pairs.data()});
  ASSERT_EQ(cudaStreamEndCapture(handle, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);

  for (int replay = 0; replay < 3; ++replay) {
    std::vector<int> new_tokens(kTokens);
    std::vector<int> new_positions(kTokens);
    for (int& token : new_tokens) token = between(random_, 0, 99);
    for (int& position : new_positions) position = between(random_, 0, 3000);
    copy_now(tokens.data(), new_tokens.data(), kTokens * sizeof(int));
    copy_now(positions.data(), new_positions.data(), kTokens * sizeof(int));
    ASSERT_EQ(cudaGraphLaunch(executable, handle), cudaSuccess);
    finish();

    TestMatrix cpu_x(kTokens, kHidden);
    TestMatrix cpu_table(kTokens, 16);
    TestMatrix cpu_normed(kTokens, kHidden);
    TestMatrix cpu_permuted(max_rows, kHidden);
    TestMatrix cpu_y(kTokens, kHidden);
    TestMatrix cpu_last(kLastTokens, kHidden);
    std::vector<int32_t> cpu_ids(kPairs);
    std::vector<float> cpu_weights(kPairs);
    std::vector<int> cpu_offsets(kExperts + 1);
    std::vector<int> cpu_rows(kPairs);
    std::vector<int> cpu_pairs(max_rows);
    run_layer(cpu(), {embeddings.view(), new_tokens, new_positions, last},
              {cpu_x.view(), cpu_table.view(), cpu_normed.view(), cpu_permuted.view(), cpu_y.view(),
               cpu_last.view(), cpu_ids.data(), cpu_weights.data(), cpu_offsets.data(),
               cpu_rows.data(), cpu_pairs.data()});
    EXPECT_EQ(ids.host(), cpu_ids);
    EXPECT_EQ(offsets.host(), cpu_offsets);
    EXPECT_EQ(pairs.host(), cpu_pairs);
    expect_close(y.host(), cpu_y, 1e-5);
    expect_close(picked.host(), cpu_last, 1e-5);
  }
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

}  // namespace
}  // namespace wideep::kernels
