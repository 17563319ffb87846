// Products at the shapes of DeepSeek-V3: hidden size 7168, experts of 2048, 128 heads.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string_view>

#include "kernels/adapters/blas.h"
#include "kernels/grouped_gemm.h"
#include "kernels/op_bench.h"

namespace wideep::kernels {
namespace {

constexpr auto kBF16 = DType::kBF16;
constexpr auto kF8 = DType::kF8E4M3;

struct Shape {
  int out;
  int in;
};
constexpr Shape kGateUp = {4096, 7168};
constexpr Shape kDown = {7168, 2048};
// q_a and kv_a, q_b, o, the shared expert's two, the dense layers' two.
constexpr Shape kDenseShapes[] = {{2112, 7168}, {24576, 1536}, {7168, 16384}, kGateUp,
                                  kDown,        {36864, 7168}, {7168, 18432}};
constexpr Shape kHead = {129280, 7168};

const char* short_name(DType dtype) {
  return dtype == kF8 ? "fp8" : dtype == kBF16 ? "bf16" : "fp32";
}

double product_flops(double rows, const Shape& shape) {
  return 2 * rows * shape.out * shape.in;
}

double row_bytes(double rows, const Shape& shape, DType dtype) {
  return rows * (shape.in * dtype_size(dtype) + shape.out * dtype_size(kBF16));
}

// Bound by memory, or by the rate at which this type is multiplied.
OpLimit limit_of(DType dtype, double bytes, double flops) {
  const double balance = dtype == kF8 ? 280 : 175;  // operations a byte of an H200
  if (flops / bytes < balance) return OpLimit::kRead;
  return dtype == kF8 ? OpLimit::kFp8 : OpLimit::kBf16;
}

struct Weights {
  Buffer memory;
  GroupedWeight view;
};
Result<Weights> random_weights(OpBench& bench, DType dtype, int groups, const Shape& shape) {
  Weights weights;
  weights.view = {nullptr, dtype, groups, shape.out, shape.in};
  const int64_t stride = weights.view.stride_bytes();
  ASSIGN_OR_RETURN(weights.memory, device_buffer(stride * groups));
  weights.view.data = weights.memory.data();
  for (int g = 0; g < groups; ++g) {
    ASSIGN_OR_RETURN(const Buffer rows, bench.random_rows(shape.out, shape.in, 0.02F));
    store_device_weight_rows(bench.stream(), {{rows.data(), kBF16, shape.out, shape.in, shape.in},
                                              0,
                                              shape.out,
                                              dtype,
                                              weights.memory.data() + g * stride});
    RETURN_IF_CUDA_ERROR(cudaDeviceSynchronize());  // before the rows go
  }
  return weights;
}

struct Rows {
  Buffer floats;
  Buffer quantized;
  ScaledRows view;
};
Result<Rows> random_rows(OpBench& bench, DType dtype, int64_t rows, int in, int64_t batch_rows) {
  Rows result;
  ASSIGN_OR_RETURN(result.floats, bench.random_rows(rows, in));
  result.view = {{result.floats.data(), kBF16, rows, in, in}};
  if (dtype != kF8) return result;
  ASSIGN_OR_RETURN(result.quantized, device_buffer(quantized_bytes(rows, in, batch_rows)));
  const QuantizedRows to = quantized_rows(result.quantized.data(), rows, in, batch_rows);
  quantize_rows(bench.stream(), {result.view.data, nullptr, to});
  result.view = to;
  return result;
}

Result<Buffer> upload(const std::vector<int>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(int));
  ASSIGN_OR_RETURN(Buffer buffer, device_buffer(bytes));
  RETURN_IF_CUDA_ERROR(
      cudaMemcpy(buffer.data(), values.data(), static_cast<size_t>(bytes), cudaMemcpyDefault));
  return buffer;
}

int calls_of(double flops, int sets) {
  return std::max(sets, flops > 5e11 ? 4 : 16);
}

OpCase dense_case(DType dtype, int64_t rows, const Shape& shape, bool is_reference) {
  OpCase result;
  result.op = fmt::format("{} {}", is_reference ? "cuBLASLt" : "linear", short_name(dtype));
  result.shape = fmt::format("{} x [{}, {}]", rows, shape.out, shape.in);
  const auto weight_bytes = static_cast<double>(device_weight_bytes(shape.out, shape.in, dtype));
  result.bytes = weight_bytes + row_bytes(static_cast<double>(rows), shape, dtype);
  result.flops = product_flops(static_cast<double>(rows), shape);
  result.limit = limit_of(dtype, result.bytes, result.flops);
  const int sets = input_sets(weight_bytes);
  const int calls = calls_of(result.flops, sets);
  result.run = [=](OpBench& bench) -> Result<double> {
    ASSIGN_OR_RETURN(const Weights weights, random_weights(bench, dtype, sets, shape));
    ASSIGN_OR_RETURN(const Rows x, random_rows(bench, dtype, rows, shape.in, 0));
    ASSIGN_OR_RETURN(const Buffer y, device_buffer(rows * shape.out * dtype_size(kBF16)));
    const MatrixView out = {y.data(), kBF16, rows, shape.out, shape.out};
    return bench.microseconds(calls, [&](int i) {
      const PackedWeight weight = device_weight(
          weights.view.data + i % sets * weights.view.stride_bytes(), shape.out, shape.in, dtype);
      if (!is_reference && dtype == kF8) return linear(bench.stream(), x.view, weight, out);
      if (!is_reference) return linear(bench.stream(), x.view.data, weight, out);
      BlasProduct product;
      product.tokens = rows;
      product.out = shape.out;
      product.in = shape.in;
      product.dtype = dtype;
      product.x = {x.view.data.data, shape.in};
      product.x_scales = x.view.scales;
      product.weight = {weight.data, shape.in};
      product.weight_scales = weight.scales;
      product.y = y.data();
      product.y_stride = shape.out;
      bench.stream().context().blas().multiply(bench.stream(), product);
    });
  };
  return result;
}

// Rows in use of each group, and where groups begin.
struct GroupRows {
  std::vector<int> counts;
  std::vector<int> offsets = {0};

  void add(int count) {
    counts.push_back(count);
    const int tiles = (count + kGroupAlignment - 1) / kGroupAlignment;
    offsets.push_back(offsets.back() + tiles * kGroupAlignment);
  }
  int in_use() const { return std::accumulate(counts.begin(), counts.end(), 0); }
};

OpCase contiguous_case(DType dtype, const GroupRows& rows, std::string_view of_groups,
                       const Shape& shape) {
  OpCase result;
  const int groups = static_cast<int>(rows.counts.size());
  result.op = fmt::format("grouped_gemm_contiguous {}", short_name(dtype));
  result.shape = fmt::format("{} x {} x [{}, {}]", groups, of_groups, shape.out, shape.in);
  result.bytes = groups * static_cast<double>(device_weight_bytes(shape.out, shape.in, dtype)) +
                 row_bytes(rows.in_use(), shape, dtype);
  result.flops = product_flops(rows.in_use(), shape);
  result.limit = limit_of(dtype, result.bytes, result.flops);
  result.run = [=, flops = result.flops](OpBench& bench) -> Result<double> {
    const int all_rows = rows.offsets.back();
    ASSIGN_OR_RETURN(const Weights weights, random_weights(bench, dtype, groups, shape));
    ASSIGN_OR_RETURN(const Rows x, random_rows(bench, dtype, all_rows, shape.in, 0));
    ASSIGN_OR_RETURN(const Buffer y,
                     device_buffer(int64_t{all_rows} * shape.out * dtype_size(kBF16)));
    ASSIGN_OR_RETURN(const Buffer offsets, upload(rows.offsets));
    ASSIGN_OR_RETURN(const Buffer counts, upload(rows.counts));
    const MatrixView out = {y.data(), kBF16, all_rows, shape.out, shape.out};
    return bench.microseconds(calls_of(flops, 1), [&](int) {
      grouped_gemm_contiguous(bench.stream(),
                              {x.view, offsets.as<int>(), weights.view, out, counts.as<int>()});
    });
  };
  return result;
}
OpCase even_case(DType dtype, int groups, int rows, const Shape& shape) {
  GroupRows all;
  for (int g = 0; g < groups; ++g) all.add(rows);
  return contiguous_case(dtype, all, fmt::format("{}", rows), shape);
}
// A prompt's experts on one of two ranks: 256 rows on average, and what a router makes of it.
OpCase uneven_case(DType dtype, const Shape& shape) {
  GroupRows all;
  std::mt19937_64 random(1);
  std::lognormal_distribution<> share(0, 0.4);
  for (int g = 0; g < 128; ++g) all.add(static_cast<int>(237 * share(random)));
  return contiguous_case(dtype, all, fmt::format("{} on average", all.in_use() / 128), shape);
}

// `used` of the groups have `rows` rows each, the others none.
struct MaskedShape {
  int groups;
  int used;
  int rows;
  int max_rows;
};

OpCase masked_case(DType dtype, const MaskedShape& masked, const Shape& shape) {
  OpCase result;
  result.op = fmt::format("grouped_gemm_masked {}", short_name(dtype));
  result.shape = fmt::format("{} of {} x {} x [{}, {}]", masked.used, masked.groups, masked.rows,
                             shape.out, shape.in);
  const int rows = masked.used * masked.rows;
  result.bytes =
      masked.used * static_cast<double>(device_weight_bytes(shape.out, shape.in, dtype)) +
      row_bytes(rows, shape, dtype);
  result.flops = product_flops(rows, shape);
  result.limit = limit_of(dtype, result.bytes, result.flops);
  // Few experts fit into the cache: other ones in every call.
  const int sets = std::max(1, std::min(masked.groups / masked.used, input_sets(result.bytes)));
  result.run = [=](OpBench& bench) -> Result<double> {
    const int64_t all_rows = int64_t{masked.groups} * masked.max_rows;
    ASSIGN_OR_RETURN(const Weights weights, random_weights(bench, dtype, masked.groups, shape));
    ASSIGN_OR_RETURN(const Rows x, random_rows(bench, dtype, all_rows, shape.in, masked.max_rows));
    ASSIGN_OR_RETURN(const Buffer y, device_buffer(all_rows * shape.out * dtype_size(kBF16)));
    std::vector<int> counts;  // of set after set
    for (int set = 0; set < sets; ++set) {
      std::vector<int> of_set(static_cast<size_t>(masked.groups));
      for (int i = 0; i < masked.used; ++i) {
        const int group = (i * (masked.groups / masked.used) + set) % masked.groups;
        of_set[static_cast<size_t>(group)] = masked.rows;
      }
      counts.insert(counts.end(), of_set.begin(), of_set.end());
    }
    ASSIGN_OR_RETURN(const Buffer device_counts, upload(counts));
    const MatrixView out = {y.data(), kBF16, all_rows, shape.out, shape.out};
    return bench.microseconds(std::max(8, sets), [&](int i) {
      grouped_gemm_masked(bench.stream(),
                          {x.view, device_counts.as<int>() + i % sets * masked.groups,
                           masked.max_rows, masked.rows, weights.view, out});
    });
  };
  return result;
}

using QuantizeOp = void (*)(Stream&, const QuantizeParams&);

// x has `factor` times the columns of the FP8 rows.
OpCase quantize_case(const char* name, QuantizeOp op, int64_t rows, int columns, int factor) {
  OpCase result;
  result.op = name;
  result.shape = fmt::format("[{}, {}]", rows, columns);
  const double per_column = factor * dtype_size(kBF16) + 1 + sizeof(float) / 128.0;
  result.bytes = static_cast<double>(rows) * columns * per_column;
  result.limit = OpLimit::kCopy;
  const int sets = input_sets(result.bytes);
  result.run = [=](OpBench& bench) -> Result<double> {
    ASSIGN_OR_RETURN(const Buffer x, bench.random_rows(rows * sets, columns * factor));
    const int64_t bytes = quantized_bytes(rows, columns);
    ASSIGN_OR_RETURN(const Buffer y, device_buffer(bytes * sets));
    const ConstMatrixView all = {x.data(), kBF16, rows * sets, columns * factor, columns * factor};
    return bench.microseconds(std::max(16, sets), [&](int i) {
      const int set = i % sets;
      op(bench.stream(), {all.row_range(set * rows, rows), nullptr,
                          quantized_rows(y.data() + set * bytes, rows, columns)});
    });
  };
  return result;
}

}  // namespace

std::vector<OpCase> gemm_cases() {
  std::vector<OpCase> cases;
  for (const Shape& shape : {kGateUp, kDown}) {
    cases.push_back(even_case(kF8, 4, 8192, shape));
    cases.push_back(even_case(kF8, 32, 256, shape));
    cases.push_back(uneven_case(kF8, shape));
    cases.push_back(even_case(kBF16, 4, 8192, shape));
    cases.push_back(masked_case(kF8, {1, 1, 1024, 1024}, shape));
    for (const int rows : {2, 4, 32}) cases.push_back(masked_case(kF8, {32, 32, rows, 128}, shape));
    cases.push_back(masked_case(kF8, {32, 8, 1, 128}, shape));
    cases.push_back(masked_case(kBF16, {32, 32, 4, 128}, shape));
  }
  for (const int64_t rows : {1, 16, 64, 128, 4096}) {
    for (const Shape& shape : kDenseShapes) {
      cases.push_back(dense_case(kF8, rows, shape, false));
      // cuBLASLt takes FP8 rows in fours only.
      if (rows % 4 == 0) cases.push_back(dense_case(kF8, rows, shape, true));
      cases.push_back(dense_case(kBF16, rows, shape, false));
    }
    cases.push_back(dense_case(kBF16, rows, kHead, false));
  }
  for (const int64_t rows : {64, 4096}) {
    cases.push_back(quantize_case("quantize_rows", quantize_rows, rows, kGateUp.in, 1));
    cases.push_back(quantize_case("silu_mul_quantize", silu_mul_quantize, 8 * rows, kDown.in, 2));
  }
  return cases;
}

}  // namespace wideep::kernels
