// Matrix products on the CPU.
//
// A packed weight is panels of 32 outputs, [ceil(out / 32)][in][32], zeros beyond `out`. A tile
// keeps the sums of a few rows of x and one or more panels in registers and walks the inputs once,
// in ascending order: each step loads 32 weights and multiplies them with one broadcast element of
// each row. So no lane is ever added to another, and a sum's order does not depend on the tile.
//
// bf16 panels keep outputs j and j + 16 in the lower and upper half of word j: one load and two
// operations give two vectors of floats in order.
#include "kernels/linear.h"

#include <algorithm>
#include <cstring>

#include "base/float_formats.h"
#include "kernels/cuda_ops.h"
#include "kernels/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/simd.inc"

// What one call of a target's code multiplies: rows of x with panels of a weight.
#ifndef WIDEEP_KERNELS_LINEAR_BLOCK
#define WIDEEP_KERNELS_LINEAR_BLOCK
namespace wideep::kernels {
struct LinearBlock {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  PackedWeight weight;
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
  float* y = nullptr;  // of output 0
  int64_t y_stride = 0;
};
}  // namespace wideep::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace wideep::kernels::HWY_NAMESPACE {

// Sums of kMaxRows x 32 outputs, the weights and a broadcast fit into the registers.
inline constexpr int kMaxRows = kPartLanes >= 16 ? 8 : kPartLanes == 8 ? 3 : 2;

// How far ahead of a tile weights are fetched; the processor's own guess ends with a page.
inline constexpr int kPrefetchBytes = 4096;

struct PanelWeights {
  F32x16 lower;  // outputs 0 to 15
  F32x16 upper;
};

HWY_INLINE PanelWeights load_weights(const float* from) {
  return {load(from), load(from + kLanes)};
}

HWY_INLINE PanelWeights load_weights(const uint16_t* from) {
  const FloatTag floats;
  const WordTag words;
  PanelWeights result;
  for (int i = 0; i < kParts; ++i) {
    const auto pair = hn::LoadU(words, reinterpret_cast<const uint32_t*>(from) + i * kPartLanes);
    result.lower.part[i] = hn::BitCast(floats, hn::ShiftLeft<16>(pair));
    result.upper.part[i] = hn::BitCast(floats, hn::And(pair, hn::Set(words, 0xffff0000U)));
  }
  return result;
}

// Outputs of one panel, of which the last has fewer than 32.
struct Outputs {
  F32x16 lower;
  F32x16 upper;
};
HWY_INLINE Outputs load_outputs(const float* y, int64_t count) {
  if (count >= kPackedRows) return {load(y), load(y + kLanes)};
  HWY_ALIGN float outputs[kPackedRows] = {};
  std::memcpy(outputs, y, static_cast<size_t>(count) * sizeof(float));
  return {load(outputs), load(outputs + kLanes)};
}
HWY_INLINE void store_outputs(const Outputs& from, int64_t count, float* y) {
  if (count >= kPackedRows) {
    store(from.lower, y);
    store(from.upper, y + kLanes);
    return;
  }
  HWY_ALIGN float outputs[kPackedRows];
  store(from.lower, outputs);
  store(from.upper, outputs + kLanes);
  std::memcpy(y, outputs, static_cast<size_t>(count) * sizeof(float));
}

// Where a tile lies in its block: some rows, and a range of panels and inputs.
struct Tile {
  int64_t row = 0;
  int64_t panel = 0;
  int64_t panel_end = 0;
  int64_t input = 0;
  int64_t input_end = 0;
};

// Rows [tile.row, + kRows) of x times panels [tile.panel, + kPanels). Inputs after the first go on
// with the sums in y: a float in memory is the float that was in the register.
template <int kRows, int kPanels, typename Weight>
HWY_NOINLINE void multiply_tile(const LinearBlock& block, const Tile& tile) {
  const int64_t inputs = block.weight.in_features;
  const float* x = block.x + tile.row * block.x_stride;
  const Weight* w =
      reinterpret_cast<const Weight*>(block.weight.data) + tile.panel * inputs * kPackedRows;
  const int64_t outputs = block.weight.out_features - tile.panel * kPackedRows;  // from here on
  float* y = block.y + tile.row * block.y_stride + tile.panel * kPackedRows;
  Outputs sums[kRows][kPanels];
  WIDEEP_UNROLL
  for (int r = 0; r < kRows; ++r) {
    WIDEEP_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      sums[r][p] = tile.input == 0 ? Outputs{broadcast(0), broadcast(0)}
                                   : load_outputs(y + r * block.y_stride + p * kPackedRows,
                                                  outputs - p * kPackedRows);
    }
  }
  for (int64_t i = tile.input; i < tile.input_end; ++i) {
    PanelWeights weights[kPanels];
    WIDEEP_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const Weight* from = w + (p * inputs + i) * kPackedRows;
      weights[p] = load_weights(from);
      hwy::Prefetch(reinterpret_cast<const std::byte*>(from) + kPrefetchBytes);
    }
    WIDEEP_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F32x16 element = broadcast(x[r * block.x_stride + i]);
      WIDEEP_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        sums[r][p].lower = mul_add(element, weights[p].lower, sums[r][p].lower);
        sums[r][p].upper = mul_add(element, weights[p].upper, sums[r][p].upper);
      }
    }
  }
  WIDEEP_UNROLL
  for (int r = 0; r < kRows; ++r) {
    WIDEEP_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      store_outputs(sums[r][p], outputs - p * kPackedRows,
                    y + r * block.y_stride + p * kPackedRows);
    }
  }
}

// Few rows leave registers for several panels, which gives the processor independent sums.
constexpr int panels_at_once(int rows) {
  return rows <= 2 ? 4 : rows <= 4 ? 2 : 1;
}

template <int kRows, typename Weight>
void multiply_rows(const LinearBlock& block, Tile tile) {
  constexpr int kPanels = kPartLanes >= 16 ? panels_at_once(kRows) : 1;
  for (; tile.panel + kPanels <= tile.panel_end; tile.panel += kPanels) {
    multiply_tile<kRows, kPanels, Weight>(block, tile);
  }
  for (; tile.panel < tile.panel_end; ++tile.panel) multiply_tile<kRows, 1, Weight>(block, tile);
}

// The tile of `rows` rows, 1 <= rows <= kRows.
template <int kRows, typename Weight>
void multiply_some_rows(const LinearBlock& block, const Tile& tile, int64_t rows) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_some_rows<kRows - 1, Weight>(block, tile, rows);
  }
  multiply_rows<kRows, Weight>(block, tile);
}

// A few panels, and so many inputs that they fit into the second cache, stay there while all rows
// pass. Tiles are of nearly equal height: nine rows are 5 + 4, not 8 and a lonely one.
template <typename Weight>
void multiply_block(const LinearBlock& block) {
  constexpr int64_t kPanelGroup = 4;
  constexpr int64_t kGroupBytes = 512 << 10;
  constexpr int64_t kInputs = kGroupBytes / (kPanelGroup * kPackedRows * sizeof(Weight));
  const int64_t inputs = block.weight.in_features;
  const int64_t tiles = (block.rows + kMaxRows - 1) / kMaxRows;
  const int64_t step = tiles > 1 ? kInputs : inputs;
  Tile tile;
  for (int64_t panel = block.panel_begin; panel < block.panel_end; panel += kPanelGroup) {
    tile.panel = panel;
    tile.panel_end = std::min(panel + kPanelGroup, block.panel_end);
    for (tile.input = 0; tile.input < inputs; tile.input += step) {
      tile.input_end = std::min(tile.input + step, inputs);
      for (int64_t i = 0; i < tiles; ++i) {
        tile.row = block.rows * i / tiles;
        multiply_some_rows<kMaxRows, Weight>(block, tile, block.rows * (i + 1) / tiles - tile.row);
      }
    }
  }
}

void linear_block(const LinearBlock& block) {
  if (block.weight.dtype == DType::kBF16) {
    multiply_block<uint16_t>(block);
  } else {
    multiply_block<float>(block);
  }
}

}  // namespace wideep::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wideep::kernels {
namespace {

HWY_EXPORT(linear_block);

// Rows that pass over a panel before the next ones do: their x should stay in the second cache.
constexpr int64_t kRowBlock = 64;

int64_t num_panels(int64_t out_features) {
  return (out_features + kPackedRows - 1) / kPackedRows;
}

// Where a bf16 panel keeps one of its outputs: see load_weights.
int64_t bf16_place(int64_t output) {
  constexpr int64_t kHalf = kPackedRows / 2;
  return output < kHalf ? 2 * output : 2 * (output - kHalf) + 1;
}

// Products of the same shape, one for each group, in units of a block of rows with one panel.
struct Products {
  int64_t groups = 1;
  int64_t row_blocks = 1;
  const PackedWeight* weights = nullptr;  // [groups]
  int64_t rows = 0;                       // of all groups
};

// block_of(group, row_block) gives everything but the panels. Ranges of units go to threads.
template <typename BlockOf>
void multiply(Stream& stream, const Products& products, const BlockOf& block_of) {
  const PackedWeight& shape = products.weights[0];
  CHECK(shape.dtype == DType::kF32 || shape.dtype == DType::kBF16);
  const int64_t panels = num_panels(shape.out_features);
  const int64_t units = products.groups * products.row_blocks * panels;
  if (units == 0 || products.rows == 0) return;
  // About two vector operations for each row and input, at some 2 GHz.
  const double nanoseconds = static_cast<double>(products.rows) * static_cast<double>(panels) *
                             shape.in_features / static_cast<double>(units);
  parallel_ranges(stream, units, nanoseconds, [&](int64_t unit, int64_t end) {
    while (unit < end) {
      const int64_t block_index = unit / panels;
      const int64_t next = std::min(end, (block_index + 1) * panels);
      LinearBlock block =
          block_of(block_index / products.row_blocks, block_index % products.row_blocks);
      block.panel_begin = unit - block_index * panels;
      block.panel_end = next - block_index * panels;
      if (block.rows > 0) HWY_DYNAMIC_DISPATCH(linear_block)(block);
      unit = next;
    }
  });
}

void check_same_shapes(std::span<const PackedWeight> weights) {
  for (const PackedWeight& weight : weights) {
    CHECK(weight.dtype == weights[0].dtype && weight.in_features == weights[0].in_features &&
          weight.out_features == weights[0].out_features);
  }
}

}  // namespace

int64_t packed_weight_bytes(int out_features, int in_features, DType dtype) {
  return num_panels(out_features) * kPackedRows * in_features * dtype_size(dtype);
}

void pack_weight_rows(ConstMatrixView rows, int row_begin, int out_features, DType dtype,
                      std::byte* packed) {
  CHECK(rows.dtype == DType::kF32 && (dtype == DType::kF32 || dtype == DType::kBF16));
  CHECK(row_begin >= 0 && row_begin % kPackedRows == 0 && row_begin + rows.rows <= out_features);
  CHECK(rows.rows % kPackedRows == 0 || row_begin + rows.rows == out_features);
  const int64_t inputs = rows.columns;
  for (int64_t first = 0; first < rows.rows; first += kPackedRows) {
    std::byte* panel = packed + (row_begin + first) * inputs * dtype_size(dtype);
    for (int64_t output = 0; output < kPackedRows; ++output) {
      const float* row = first + output < rows.rows ? rows.row<float>(first + output) : nullptr;
      for (int64_t i = 0; i < inputs; ++i) {
        const float value = row != nullptr ? row[i] : 0.0F;
        if (dtype == DType::kF32) {
          reinterpret_cast<float*>(panel)[i * kPackedRows + output] = value;
        } else {
          reinterpret_cast<uint16_t*>(panel)[i * kPackedRows + bf16_place(output)] =
              float_to_bf16(value);
        }
      }
    }
  }
}

void linear(Stream& stream, ConstMatrixView x, const PackedWeight& weight, MatrixView y) {
  CHECK(x.rows == y.rows && x.columns == weight.in_features && y.columns == weight.out_features);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::linear(stream, x, weight, y);
  }
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32);
  const Products products = {1, (x.rows + kRowBlock - 1) / kRowBlock, &weight, x.rows};
  multiply(stream, products, [&](int64_t, int64_t row_block) {
    const int64_t row = row_block * kRowBlock;
    LinearBlock block;
    block.x = x.row<float>(row);
    block.x_stride = x.stride;
    block.rows = std::min(kRowBlock, x.rows - row);
    block.weight = weight;
    block.y = y.row<float>(row);
    block.y_stride = y.stride;
    return block;
  });
}

void head_linear(Stream& stream, const HeadLinearParams& params) {
  const auto& [x, x_head_stride, weights, y, y_head_stride] = params;
  if (weights.empty()) return;
  check_same_shapes(weights);
  const auto heads = static_cast<int64_t>(weights.size());
  CHECK(x.rows == y.rows && x.columns >= (heads - 1) * x_head_stride + weights[0].in_features);
  CHECK(y_head_stride >= weights[0].out_features);
  CHECK(y.columns >= (heads - 1) * y_head_stride + weights[0].out_features);
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::head_linear(stream, params);
  }
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32);
  const Products products = {heads, (x.rows + kRowBlock - 1) / kRowBlock, weights.data(),
                             x.rows * heads};
  multiply(stream, products, [&](int64_t head, int64_t row_block) {
    const int64_t row = row_block * kRowBlock;
    LinearBlock block;
    block.x = params.x.row<float>(row) + head * params.x_head_stride;
    block.x_stride = params.x.stride;
    block.rows = std::min(kRowBlock, params.x.rows - row);
    block.weight = params.weights[head];
    block.y = params.y.row<float>(row) + head * params.y_head_stride;
    block.y_stride = params.y.stride;
    return block;
  });
}

void grouped_linear(Stream& stream, const GroupedLinearParams& params) {
  CHECK(!stream.is_cuda());
  const auto groups = static_cast<int64_t>(params.weights.size());
  CHECK(static_cast<int64_t>(params.offsets.size()) == groups + 1);
  if (groups == 0) return;
  check_same_shapes(params.weights);
  const int64_t rows = params.offsets[groups];
  CHECK(params.offsets[0] == 0 && rows <= params.x.rows && rows <= params.y.rows);
  CHECK(params.x.dtype == DType::kF32 && params.y.dtype == DType::kF32);
  CHECK(params.x.columns == params.weights[0].in_features);
  CHECK(params.y.columns == params.weights[0].out_features);
  const Products products = {groups, 1, params.weights.data(), rows};
  multiply(stream, products, [&](int64_t group, int64_t) {
    const int64_t row = params.offsets[group];
    LinearBlock block;
    block.x = params.x.row<float>(row);
    block.x_stride = params.x.stride;
    block.rows = params.offsets[group + 1] - row;
    CHECK_GE(block.rows, 0);
    block.weight = params.weights[group];
    block.y = params.y.row<float>(row);
    block.y_stride = params.y.stride;
    return block;
  });
}

}  // namespace wideep::kernels
#endif
