#include "kernels/fp8_testing.h"

#include <algorithm>

#include "base/float_formats.h"

namespace wideep::kernels {
namespace {

constexpr int64_t kBlock = kScaleColumns;

int64_t blocks_of(int64_t size, int64_t block) {
  return (size + block - 1) / block;
}

// Waits: the test's stream does not wait for the default one.
void poison(const Buffer& memory) {
  if (memory.size() == 0) return;
  EXPECT_EQ(cudaMemset(memory.data(), kPoisonByte, static_cast<size_t>(memory.size())),
            cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace

uint8_t nearest_e4m3(float value) {
  const float magnitude = std::min(std::abs(value), 448.0F);
  uint8_t code = 0;  // the largest that is not above
  while (code < 126 && kE4M3Values[code + 1U] <= magnitude) ++code;
  if (code < 126) {
    const float below = magnitude - kE4M3Values[code];
    const float above = kE4M3Values[code + 1U] - magnitude;
    if (above < below || (above == below && code % 2 == 1)) ++code;
  }
  return static_cast<uint8_t>(code | (std::signbit(value) ? 0x80 : 0));
}

Fp8Matrix::Fp8Matrix(const TestMatrix& matrix, int64_t block_rows)
    : rows(matrix.rows),
      columns(matrix.columns),
      rows_of_block(block_rows),
      codes(static_cast<size_t>(rows * columns)),
      scales(static_cast<size_t>(blocks_of(rows, block_rows) * blocks_of(columns, kBlock))) {
  std::vector<float> largest(scales.size());
  const auto block_at = [&](int64_t r, int64_t c) {
    return static_cast<size_t>(r / block_rows * blocks_of(columns, kBlock) + c / kBlock);
  };
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      float& of_block = largest[block_at(r, c)];
      of_block = std::max(of_block, std::abs(matrix.at(r, c)));
    }
  }
  for (size_t i = 0; i < scales.size(); ++i) {
    scales[i] = largest[i] == 0 ? 1.0F : largest[i] / 448.0F;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const float of_block = largest[block_at(r, c)];
      const float factor = of_block == 0 ? 1.0F : 448.0F / of_block;
      codes[static_cast<size_t>(r * columns + c)] = nearest_e4m3(matrix.at(r, c) * factor);
    }
  }
}

float Fp8Matrix::scale(int64_t row, int64_t column) const {
  return scales[static_cast<size_t>(row / rows_of_block * blocks_of(columns, kBlock) +
                                    column / kBlock)];
}

float Fp8Matrix::value(int64_t row, int64_t column) const {
  return kE4M3Values[codes[static_cast<size_t>(row * columns + column)]] * scale(row, column);
}

TestMatrix Fp8Matrix::widened() const {
  TestMatrix result(rows, columns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) result.row(r)[c] = value(r, c);
  }
  return result;
}

DeviceWeights::DeviceWeights(Stream& stream, Random& random, const GroupedWeight& shape)
    : shape_(shape) {
  const int64_t bytes = shape.stride_bytes() * shape.groups;
  memory_ = device_buffer(bytes).value();
  poison(memory_);
  shape_.data = memory_.data();
  for (int g = 0; g < shape.groups; ++g) {
    const TestMatrix rows = random_matrix(random, shape.out_features, shape.in_features, 3);
    const DeviceMatrix device_rows(rows, DType::kF32);
    // In two pieces, as loaders bring them.
    const int64_t cut = std::min<int64_t>(kBlock, rows.rows);
    for (const auto& [begin, count] :
         {std::pair<int64_t, int64_t>{0, cut}, {cut, rows.rows - cut}}) {
      store_device_weight_rows(
          stream, {device_rows.view().row_range(begin, count), static_cast<int>(begin),
                   shape.out_features, shape.dtype, memory_.data() + g * shape.stride_bytes()});
    }
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    plain_.push_back(as_multiplied(rows, shape.dtype, kBlock));
  }
}

GroupedWeight DeviceWeights::view() const {
  return shape_;
}

PackedWeight DeviceWeights::one(int group) const {
  return device_weight(shape_.data + group * shape_.stride_bytes(), shape_.out_features,
                       shape_.in_features, shape_.dtype);
}

DeviceQuantized::DeviceQuantized(int64_t rows, int64_t columns, int64_t batch_rows) {
  const int64_t bytes = quantized_bytes(rows, columns, batch_rows);
  memory_ = device_buffer(bytes).value();
  poison(memory_);
  rows_ = quantized_rows(memory_.data(), rows, columns, batch_rows);
}

DeviceQuantized::Host DeviceQuantized::host() const {
  const int64_t rows = rows_.data.rows;
  const int64_t columns = rows_.data.columns;
  const int64_t blocks = blocks_of(columns, kBlock);
  std::vector<std::byte> bytes(static_cast<size_t>(memory_.size()));
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  copy_now(bytes.data(), memory_.data(), bytes.size());
  const auto* codes = reinterpret_cast<const uint8_t*>(bytes.data());
  const auto* scales = reinterpret_cast<const float*>(
      bytes.data() + (reinterpret_cast<std::byte*>(rows_.scales) - memory_.data()));
  Host host{{codes, codes + rows * columns}, TestMatrix(rows, blocks)};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      host.scales.row(r)[b] =
          scales[(r / rows_.batch_rows * blocks + b) * rows_.scale_stride + r % rows_.batch_rows];
    }
  }
  return host;
}

TestMatrix product_of(const TestMatrix& x, const TestMatrix& weight) {
  TestMatrix result(x.rows, weight.rows);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t o = 0; o < weight.rows; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < x.columns; ++i) {
        sum += static_cast<double>(x.at(t, i)) * static_cast<double>(weight.at(o, i));
      }
      result.row(t)[o] = static_cast<float>(sum);
    }
  }
  return result;
}

TestMatrix as_multiplied(const TestMatrix& matrix, DType dtype, int64_t block_rows) {
  if (dtype == DType::kF8E4M3) return Fp8Matrix(matrix, block_rows).widened();
  return rounded(matrix, dtype);
}

void copy_rows(const TestMatrix& rows, int64_t begin, TestMatrix& to) {
  for (int64_t r = 0; r < rows.rows; ++r) std::copy_n(rows.row(r), rows.columns, to.row(begin + r));
}

TestMatrix rows_of(const TestMatrix& matrix, int64_t begin, int64_t count) {
  TestMatrix result(count, matrix.columns);
  for (int64_t r = 0; r < count; ++r) {
    std::copy_n(matrix.row(begin + r), matrix.columns, result.row(r));
  }
  return result;
}

}  // namespace wideep::kernels
