#include <algorithm>
#include <cstring>

#include "kernels/fp8_testing.h"
#include "kernels/linear.h"

namespace wideep::kernels {
namespace {

class LinearCudaTest : public CudaTest {
 protected:
  DeviceWeights weights(DType dtype, int groups, int out, int in) {
    return {stream(), random_, {nullptr, dtype, groups, out, in}};
  }
};

struct Types {
  DType x;
  DType weight;
  DType y;
};
constexpr DType kF32 = DType::kF32;
constexpr DType kBF16 = DType::kBF16;
constexpr DType kF8 = DType::kF8E4M3;

// How far a product may be from the exact one of the rounded operands.
double tolerance_of(const Types& types) {
  return types.y == kBF16 || types.weight == kF8 ? 8e-3 : 1e-5;
}

TEST_F(LinearCudaTest, IsTheProductOfRoundedOperands) {
  for (const Types types : {Types{kF32, kF32, kF32},
                            {kBF16, kF32, kF32},
                            {kBF16, kF32, kBF16},
                            {kF32, kBF16, kF32},
                            {kBF16, kBF16, kF32},
                            {kBF16, kBF16, kBF16}}) {
    for (const auto& [rows, out, in] : {std::tuple{0, 8, 8},
                                        {1, 8, 16},
                                        {3, 129, 77},
                                        {65, 200, 48},
                                        {300, 256, 576},
                                        // In teams of a few threads, of warps and of a block.
                                        {2, 77, 8},
                                        {3, 513, 128},
                                        {1, 65, 512},
                                        {4, 131, 1000},
                                        {1, 256, 7168},
                                        {3, 9, 8192},
                                        {2, 17, 16000}}) {
      SCOPED_TRACE(testing::Message()
                   << dtype_name(types.x) << " " << dtype_name(types.weight) << " "
                   << dtype_name(types.y) << ", " << rows << " rows, " << out << " x " << in);
      const DeviceWeights weight = weights(types.weight, 1, out, in);
      const TestMatrix x = rounded(random_matrix(random_, rows, in, 8, 4), types.x);
      const DeviceMatrix y(TestMatrix(rows, out, 3), types.y);
      linear(stream(), DeviceMatrix(x, types.x).view(), weight.one(0), y.view());
      finish();
      const TestMatrix seen = as_multiplied(x, types.weight, 1);
      expect_close(y.host(), product_of(seen, weight.plain(0)), tolerance_of(types));
      expect_gaps_untouched(y.host());
    }
  }
}

TEST_F(LinearCudaTest, QuantisesRowsForFp8Weights) {
  for (const Types types : {Types{kF32, kF8, kF32}, {kBF16, kF8, kBF16}, {kBF16, kF8, kF32}}) {
    for (const auto& [rows, out, in] : {std::tuple{0, 128, 128},
                                        {1, 128, 128},
                                        {2, 9000, 256},
                                        {3, 200, 2192},
                                        {4, 72, 16384},
                                        {5, 576, 256},
                                        {16, 200, 400},
                                        {37, 2112, 512},
                                        {130, 384, 144}}) {
      SCOPED_TRACE(testing::Message() << rows << " rows, " << out << " x " << in);
      const DeviceWeights weight = weights(kF8, 1, out, in);
      const TestMatrix x = rounded(random_matrix(random_, rows, in, 8, 4), types.x);
      const DeviceMatrix y(TestMatrix(rows, out, 8), types.y);
      linear(stream(), DeviceMatrix(x, types.x).view(), weight.one(0), y.view());
      finish();
      expect_close(y.host(), product_of(as_multiplied(x, kF8, 1), weight.plain(0)),
                   tolerance_of(types));
      expect_gaps_untouched(y.host());
    }
  }
}

// Unlike cuBLASLt's, whatever tiles the number of rows calls for.
TEST_F(LinearCudaTest, Fp8RowsDependOnNothingElse) {
  for (const auto& [out, in] : {std::pair{128, 1152}, {4224, 1152}, {2112, 7168}, {192, 400}}) {
    const DeviceWeights weight = weights(kF8, 1, out, in);
    const TestMatrix x = random_matrix(random_, 5000, in);
    const DeviceMatrix device_x(x, kBF16);
    std::vector<uint32_t> expected;
    for (const int64_t rows : {1, 2, 3, 4, 5, 16, 17, 64, 65, 128, 129, 300, 1000, 5000}) {
      const DeviceMatrix y(TestMatrix(rows, out), kBF16);
      linear(stream(), device_x.view().row_range(5000 - rows, rows), weight.one(0), y.view());
      finish();
      const std::vector<uint32_t> last = rows_of(y.host(), rows - 1, 1).bits();
      if (expected.empty()) expected = last;
      EXPECT_EQ(last, expected) << rows << " rows, " << out << " outputs";
    }
  }
}

// Rows that are brought to the weight's type do not all fit into the workspace.
TEST_F(LinearCudaTest, ManyRowsInPieces) {
  constexpr int64_t kRows = 9000;
  for (const DType dtype : {kBF16, kF8}) {
    const int in = dtype == kF8 ? 4096 : 2048;
    const DeviceWeights weight = weights(dtype, 1, 16, in);
    const TestMatrix x = random_matrix(random_, kRows, in);
    const DeviceMatrix y(TestMatrix(kRows, 16), kF32);
    linear(stream(), DeviceMatrix(x, kF32).view(), weight.one(0), y.view());
    finish();
    const TestMatrix result = y.host();
    for (const int64_t row : {int64_t{0}, kRows / 2, kRows - 1}) {
      const TestMatrix seen = as_multiplied(rows_of(x, row, 1), dtype, 1);
      expect_close(rows_of(result, row, 1), product_of(seen, weight.plain(0)), 8e-3);
    }
    EXPECT_TRUE(std::none_of(result.values.begin(), result.values.end(),
                             [](float value) { return std::isnan(value); }));
  }
}

TEST_F(LinearCudaTest, WorksInAGraph) {
  for (const DType dtype : {kF32, kBF16, kF8}) {
    const DeviceWeights weight = weights(dtype, 1, 256, 384);
    const TestMatrix first = random_matrix(random_, 7, 384);
    const TestMatrix second = random_matrix(random_, 7, 384);
    const DeviceMatrix x(first, kF32);
    const DeviceMatrix y(TestMatrix(7, 256), kF32);
    const auto run = [&] { linear(stream(), x.view(), weight.one(0), y.view()); };
    run();  // what is chosen once is chosen
    finish();
    const auto handle = stream_of(stream());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(handle, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    run();
    ASSERT_EQ(cudaStreamEndCapture(handle, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    copy_now(x.view().data, second.values.data(), second.values.size() * sizeof(float));
    ASSERT_EQ(cudaGraphLaunch(executable, handle), cudaSuccess);
    finish();
    expect_close(y.host(), product_of(as_multiplied(second, dtype, 1), weight.plain(0)), 8e-3);
    EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
}

TEST_F(LinearCudaTest, HeadsLieApart) {
  constexpr int kHeads = 5;
  for (const Types types : {Types{kF32, kF32, kF32},
                            {kBF16, kBF16, kBF16},
                            {kF32, kBF16, kF32},
                            {kBF16, kBF16, kF32}}) {
    for (const int rows : {0, 1, 3, 33}) {
      const int in = 48;
      const int out = 72;
      const DeviceWeights weight = weights(types.weight, kHeads, out, in);
      std::vector<PackedWeight> views;
      for (int h = 0; h < kHeads; ++h) views.push_back(weight.one(h));
      const TestMatrix x = rounded(random_matrix(random_, rows, kHeads * (in + 16), 8), types.x);
      const DeviceMatrix device_x(x, types.x);
      const DeviceMatrix y(TestMatrix(rows, kHeads * (out + 8), 8), types.y);
      head_linear(stream(), {device_x.view(), in + 16, views, y.view(), out + 8});
      finish();
      const TestMatrix result = y.host();
      const TestMatrix seen = as_multiplied(x, types.weight, 1);
      for (int h = 0; h < kHeads; ++h) {
        TestMatrix head(rows, in);
        TestMatrix actual(rows, out, 8);
        for (int64_t t = 0; t < rows; ++t) {
          std::copy_n(seen.row(t) + h * (in + 16), in, head.row(t));
          std::copy_n(result.row(t) + h * (out + 8), out + 8, actual.row(t));
        }
        expect_close(actual, product_of(head, weight.plain(h)), tolerance_of(types));
        expect_gaps_untouched(actual);
      }
      expect_gaps_untouched(result);
    }
  }
}

TEST_F(LinearCudaTest, StoresWeightsAsTheHostRoundsThem) {
  for (const auto& [out, in] : {std::pair{1, 16}, {128, 128}, {300, 272}, {576, 400}}) {
    const TestMatrix rows = random_matrix(random_, out, in, 0, 3);
    for (const DType from : {kF32, kBF16}) {
      const DeviceVector<uint8_t> memory(std::vector<uint8_t>(
          static_cast<size_t>(device_weight_bytes(out, in, kF8)), kPoisonByte));
      const DeviceMatrix device_rows(rows, from);
      store_device_weight_rows(
          stream(), {device_rows.view(), 0, out, kF8, reinterpret_cast<std::byte*>(memory.data())});
      finish();
      const std::vector<uint8_t> bytes = memory.host();
      const Fp8Matrix expected(rounded(rows, from), 128);
      ASSERT_TRUE(std::equal(expected.codes.begin(), expected.codes.end(), bytes.begin()));
      std::vector<float> scales(expected.scales.size());
      std::memcpy(scales.data(), bytes.data() + expected.codes.size(),
                  scales.size() * sizeof(float));
      EXPECT_EQ(scales, expected.scales);
      // Nothing behind the scales.
      EXPECT_TRUE(std::all_of(
          bytes.begin() + static_cast<int64_t>(expected.codes.size() + 4 * scales.size()),
          bytes.end(), [](uint8_t byte) { return byte == kPoisonByte; }));
    }
  }
}

}  // namespace
}  // namespace wideep::kernels
