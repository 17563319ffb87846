// Sizes and places of what matrix products read on a device; no CUDA is needed to know them.
#include "kernels/linear.h"
#include "kernels/quantize.h"

namespace wideep::kernels {
namespace {

constexpr int64_t kAlignment = 128;
constexpr int64_t kWeightAlignment = 16;

int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

int64_t num_scales(int64_t columns) {
  return (columns + kScaleColumns - 1) / kScaleColumns;
}

// Of a batch of rows: 16 bytes are what the copy engine takes.
int64_t scale_stride_of(int64_t rows) {
  return round_up(rows, 16 / static_cast<int64_t>(sizeof(float)));
}

}  // namespace

int64_t device_weight_bytes(int out_features, int in_features, DType dtype) {
  const int64_t bytes = int64_t{out_features} * in_features * dtype_size(dtype);
  if (dtype != DType::kF8E4M3) return round_up(bytes, kWeightAlignment);
  CHECK(in_features % kWeightAlignment == 0);
  const int64_t scale_bytes =
      num_scales(out_features) * num_scales(in_features) * static_cast<int64_t>(sizeof(float));
  return bytes + round_up(scale_bytes, in_features);
}

PackedWeight device_weight(const std::byte* data, int out_features, int in_features, DType dtype) {
  PackedWeight weight = {data, dtype, out_features, in_features};
  if (dtype == DType::kF8E4M3) {
    weight.scales = reinterpret_cast<const float*>(data + int64_t{out_features} * in_features);
  }
  return weight;
}

int64_t quantized_bytes(int64_t rows, int64_t columns, int64_t batch_rows) {
  if (rows == 0) return 0;
  if (batch_rows == 0) batch_rows = rows;
  CHECK(columns % 16 == 0 && rows % batch_rows == 0);
  const int64_t scales = rows / batch_rows * num_scales(columns) * scale_stride_of(batch_rows);
  return round_up(rows * columns, kAlignment) +
         round_up(scales * static_cast<int64_t>(sizeof(float)), kAlignment);
}

QuantizedRows quantized_rows(std::byte* memory, int64_t rows, int64_t columns, int64_t batch_rows) {
  if (batch_rows == 0) batch_rows = rows;
  CHECK(columns % 16 == 0 && (rows == 0 || rows % batch_rows == 0));
  QuantizedRows result;
  result.data = {memory, DType::kF8E4M3, rows, columns, columns};
  result.scales = reinterpret_cast<float*>(memory + round_up(rows * columns, kAlignment));
  result.scale_stride = scale_stride_of(batch_rows);
  result.batch_rows = batch_rows;
  return result;
}

}  // namespace wideep::kernels
