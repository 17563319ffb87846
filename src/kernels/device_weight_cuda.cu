// Conversions of rows: of activations, and of weights on their way to a device's layout.
#include <algorithm>

#include "kernels/convert_rows.h"
#include "kernels/eight.cuh"
#include "kernels/linear.h"

namespace wideep::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBlock = kScaleColumns;  // rows and columns that share a scale of a weight

template <bool kVector, typename X, typename Y>
__global__ void convert_kernel(const X* x, int64_t x_stride, Y* y, int64_t y_stride, int64_t rows,
                               int64_t columns) {
  const int64_t eights = (columns + 7) / 8;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * eights; i += step) {
    const int64_t row = i / eights;
    const int64_t column = i % eights * 8;
    const Eight values = load_eight<kVector>(x + row * x_stride + column, columns - column);
    store_eight<kVector>(values, y + row * y_stride + column, columns - column);
  }
}

// One 128 x 128 block: 16 threads a row, 16 rows at a time. It is read twice, the second time from
// the cache.
template <bool kVector, typename X>
__global__ void quantize_weight_kernel(const X* x, int64_t stride, int rows, int columns,
                                       uint8_t* y, float* scales) {
  const int column = static_cast<int>(blockIdx.x) * kBlock + static_cast<int>(threadIdx.x % 16) * 8;
  const int first = static_cast<int>(blockIdx.y) * kBlock;
  const int last = min(first + kBlock, rows);
  float largest = 0;
  for (int row = first + static_cast<int>(threadIdx.x / 16); row < last; row += kThreads / 16) {
    if (column >= columns) continue;
    largest = fmaxf(largest, largest_magnitude(load_eight<kVector>(x + row * stride + column, 8)));
  }
  __shared__ float of_thread[kThreads];
  of_thread[threadIdx.x] = largest;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      of_thread[threadIdx.x] = fmaxf(of_thread[threadIdx.x], of_thread[threadIdx.x + half]);
    }
  }
  __syncthreads();
  const Fp8Scale scale = fp8_scale(of_thread[0]);
  for (int row = first + static_cast<int>(threadIdx.x / 16); row < last; row += kThreads / 16) {
    if (column >= columns) continue;
    const Eight values = load_eight<kVector>(x + row * stride + column, 8);
    *reinterpret_cast<uint2*>(y + int64_t{row} * columns + column) = to_fp8(values, scale.inverse);
  }
  if (threadIdx.x == 0) scales[int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = scale.scale;
}

void quantize_weight(Stream& stream, const DeviceWeightRowsParams& params) {
  const ConstMatrixView& rows = params.rows;
  const auto in = static_cast<int>(rows.columns);
  CHECK(params.row_begin % kBlock == 0);
  CHECK(rows.rows % kBlock == 0 || params.row_begin + rows.rows == params.out_features);
  const PackedWeight weight = device_weight(params.weight, params.out_features, in, DType::kF8E4M3);
  const dim3 grid(static_cast<unsigned>((in + kBlock - 1) / kBlock),
                  static_cast<unsigned>((rows.rows + kBlock - 1) / kBlock));
  auto* data = reinterpret_cast<uint8_t*>(params.weight) + int64_t{params.row_begin} * in;
  float* scales = const_cast<float*>(weight.scales) + params.row_begin / kBlock * int64_t{grid.x};
  with_float_type(rows.dtype, [&]<typename X>(X) {
    const auto run = [&](auto kernel) {
      kernel<<<grid, kThreads, 0, stream_of(stream)>>>(
          rows.row<X>(0), rows.stride, static_cast<int>(rows.rows), in, data, scales);
    };
    run(is_vectorizable(rows) ? quantize_weight_kernel<true, X> : quantize_weight_kernel<false, X>);
  });
  check_launch(stream, "store_device_weight_rows");
}

}  // namespace

void convert_rows(Stream& stream, ConstMatrixView x, MatrixView y) {
  CHECK(stream.is_cuda() && x.rows == y.rows && x.columns == y.columns);
  if (x.rows == 0 || x.columns == 0) return;
  const int64_t eights = x.rows * ((x.columns + 7) / 8);
  const int64_t most = int64_t{stream.context().num_sms()} * 16;
  const auto blocks = static_cast<unsigned>(std::min((eights + kThreads - 1) / kThreads, most));
  with_float_type(x.dtype, [&]<typename X>(X) {
    with_float_type(y.dtype, [&]<typename Y>(Y) {
      const auto run = [&](auto kernel) {
        kernel<<<blocks, kThreads, 0, stream_of(stream)>>>(x.row<X>(0), x.stride, y.row<Y>(0),
                                                           y.stride, x.rows, x.columns);
      };
      const bool is_vector = is_vectorizable(x) && is_vectorizable(y);
      run(is_vector ? convert_kernel<true, X, Y> : convert_kernel<false, X, Y>);
    });
  });
  check_launch(stream, "convert_rows");
}

void store_device_weight_rows(Stream& stream, const DeviceWeightRowsParams& params) {
  CHECK(stream.is_cuda() && params.row_begin >= 0);
  const ConstMatrixView& rows = params.rows;
  CHECK_LE(params.row_begin + rows.rows, params.out_features);
  if (rows.rows == 0) return;
  if (params.dtype == DType::kF8E4M3) return quantize_weight(stream, params);
  std::byte* data =
      params.weight + params.row_begin * rows.columns * int64_t{dtype_size(params.dtype)};
  convert_rows(stream, rows, {data, params.dtype, rows.rows, rows.columns, rows.columns});
}

}  // namespace wideep::kernels
