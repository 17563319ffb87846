// Attention on the CPU.
//
// A tile of query rows goes over the pages of its sequence in blocks of 64 or 32 keys:
//   scores  = q k^T: 4 rows x 4 keys at a time, 16 sums in registers, each over the dimensions in
//   16
//             lanes that are added as a tree at the end
//   softmax of the block, online: when the largest score grows, earlier sums are scaled down
//   out    += p V: 4 rows x 64 columns at a time in registers, keys in ascending order
// A key or value that is loaded serves 4 rows; the block stays in the cache for all rows of the
// tile. Blocks start where pages do, and what a row does not see has p = 0, which changes no bit:
// so a row's bits do not depend on the tile that it is in.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "base/float_formats.h"
#include "kernels/attention_tile.h"
#include "kernels/cuda_ops.h"
#include "kernels/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention_cpu.cc"
#include <hwy/foreach_target.h>

#include "kernels/simd.inc"

HWY_BEFORE_NAMESPACE();
namespace wideep::kernels::HWY_NAMESPACE {

inline constexpr int kBlockKeys = 64;
inline constexpr int kWideRow = 256;     // longer rows of the cache come in blocks of half as many
inline constexpr int kWidenedDim = 640;  // the longest rows of bf16 that are widened
inline constexpr int kPrefetchKeys = 4;
inline constexpr float kNone = -std::numeric_limits<float>::infinity();
// Register tiles: rows by keys of the scores, rows by vectors of the output.
inline constexpr int kRowsAtOnce = kPartLanes >= 16 ? 4 : 2;
inline constexpr int kKeysAtOnce = kPartLanes >= 16 ? 4 : 2;
inline constexpr int kVectorsAtOnce = kPartLanes >= 16 ? 4 : kPartLanes == 8 ? 2 : 1;

HWY_INLINE float to_float(float value) {
  return value;
}
HWY_INLINE float to_float(uint16_t value) {
  return bf16_to_float(value);
}

// Keys [first, end) of a block, and what its rows are to do with them.
template <typename Element>
struct KeyBlock {
  const Element* keys = nullptr;  // of position 0 of the block
  const Element* values = nullptr;
  int64_t stride = 0;  // elements from key to key
  int k_dim = 0;
  int v_dim = 0;
  int first = 0;  // keys that some row of the tile sees
  int end = 0;
};

// Scores, then probabilities, of a block, and the running maximum and sum of each row.
struct SoftmaxState {
  HWY_ALIGN float scores[kAttentionTileRows][kBlockKeys];
  float max[kAttentionTileRows];
  float sum[kAttentionTileRows];
  float correction[kAttentionTileRows];  // of what the row has so far, by the last block
};

template <int kRows, int kKeys, typename Element>
HWY_INLINE void score_some(const AttentionTile& tile, const KeyBlock<Element>& block, int row,
                           int key, SoftmaxState& state) {
  const Element* keys = block.keys + key * block.stride;
  F32x16 sums[kRows * kKeys];
  WIDEEP_UNROLL
  for (int i = 0; i < kRows * kKeys; ++i) sums[i] = broadcast(0);
  int i = 0;
  for (; i + kLanes <= block.k_dim; i += kLanes) {
    F32x16 k_part[kKeys];
    WIDEEP_UNROLL
    for (int k = 0; k < kKeys; ++k) {
      k_part[k] = load(keys + k * block.stride + i);
      // The processor's own guess ends with a row of the cache.
      if (row == 0) hwy::Prefetch(keys + (k + kPrefetchKeys) * block.stride + i);
    }
    WIDEEP_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F32x16 q_part = load(tile.q[row + r] + i);
      WIDEEP_UNROLL
      for (int k = 0; k < kKeys; ++k) {
        sums[r * kKeys + k] = mul_add(q_part, k_part[k], sums[r * kKeys + k]);
      }
    }
  }
  float totals[kRows * kKeys];
  sum_each(sums, totals);
  for (; i < block.k_dim; ++i) {
    for (int r = 0; r < kRows; ++r) {
      for (int k = 0; k < kKeys; ++k) {
        totals[r * kKeys + k] += tile.q[row + r][i] * to_float(keys[k * block.stride + i]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kKeys; ++k) {
      state.scores[row + r][key + k] = totals[r * kKeys + k] * tile.scale;
    }
  }
}

// Scores of keys [key, key + kKeys), which stay in the nearest cache, for all rows.
template <int kKeys, typename Element>
void score_keys(const AttentionTile& tile, const KeyBlock<Element>& block, int key,
                SoftmaxState& state) {
  int row = 0;
  for (; row + kRowsAtOnce <= tile.rows; row += kRowsAtOnce) {
    score_some<kRowsAtOnce, kKeys>(tile, block, row, key, state);
  }
  for (; row < tile.rows; ++row) score_some<1, kKeys>(tile, block, row, key, state);
}

// Scores of a row become exp(score - max); keys [first, end) are seen, the rest of the block gets
// 0.
HWY_INLINE void soften(int row, int first, int end, const int block_end, SoftmaxState& state) {
  float* scores = state.scores[row];
  const int padded = (block_end + kLanes - 1) / kLanes * kLanes;
  std::fill(scores, scores + std::min(first, padded), kNone);
  std::fill(scores + std::min(std::max(first, end), padded), scores + padded, kNone);
  F32x16 most = broadcast(state.max[row]);
  for (int k = 0; k < padded; k += kLanes) most = max(most, load(scores + k));
  const float new_max = largest(most);
  if (new_max == kNone) {  // nothing seen so far
    std::fill(scores, scores + padded, 0.0F);
    state.correction[row] = 1;
    return;
  }
  const F32x16 shift = broadcast(new_max);
  F32x16 total = broadcast(0);
  for (int k = 0; k < padded; k += kLanes) {
    const F32x16 p = exp(sub(load(scores + k), shift));
    store(p, scores + k);
    total = add(total, p);
  }
  const FloatTag d;
  const float correction = hn::GetLane(hn::Exp(d, hn::Set(d, state.max[row] - new_max)));
  state.max[row] = new_max;
  state.sum[row] = state.sum[row] * correction + sum(total);
  state.correction[row] = correction;
}

// out[row .. row + kRows)[column ...) = out * correction + p V.
template <int kRows, int kVectors, typename Element>
HWY_INLINE void weigh_some(const AttentionTile& tile, const KeyBlock<Element>& block, int row,
                           int column, const SoftmaxState& state) {
  F32x16 sums[kRows][kVectors];
  WIDEEP_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const F32x16 correction = broadcast(state.correction[row + r]);
    WIDEEP_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = mul(load(tile.out[row + r] + column + v * kLanes), correction);
    }
  }
  for (int key = block.first; key < block.end; ++key) {
    const Element* value = block.values + key * block.stride + column;
    F32x16 parts[kVectors];
    WIDEEP_UNROLL
    for (int v = 0; v < kVectors; ++v) parts[v] = load(value + v * kLanes);
    WIDEEP_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F32x16 p = broadcast(state.scores[row + r][key]);
      WIDEEP_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[r][v] = mul_add(p, parts[v], sums[r][v]);
    }
  }
  WIDEEP_UNROLL
  for (int r = 0; r < kRows; ++r) {
    WIDEEP_UNROLL
    for (int v = 0; v < kVectors; ++v) store(sums[r][v], tile.out[row + r] + column + v * kLanes);
  }
}

// Columns [column, column + 16 kVectors), whose values stay in the nearest cache, of all rows.
template <int kVectors, typename Element>
void weigh_columns(const AttentionTile& tile, const KeyBlock<Element>& block, int column,
                   const SoftmaxState& state) {
  int row = 0;
  for (; row + kRowsAtOnce <= tile.rows; row += kRowsAtOnce) {
    weigh_some<kRowsAtOnce, kVectors>(tile, block, row, column, state);
  }
  for (; row < tile.rows; ++row) weigh_some<1, kVectors>(tile, block, row, column, state);
}

template <typename Element>
void weigh(const AttentionTile& tile, const KeyBlock<Element>& block, const SoftmaxState& state) {
  int column = 0;
  for (; column + kVectorsAtOnce * kLanes <= block.v_dim; column += kVectorsAtOnce * kLanes) {
    weigh_columns<kVectorsAtOnce>(tile, block, column, state);
  }
  for (; column + kLanes <= block.v_dim; column += kLanes) {
    weigh_columns<1>(tile, block, column, state);
  }
  for (; column < block.v_dim; ++column) {
    for (int row = 0; row < tile.rows; ++row) {
      float total = tile.out[row][column] * state.correction[row];
      for (int key = block.first; key < block.end; ++key) {
        total += state.scores[row][key] * to_float(block.values[key * block.stride + column]);
      }
      tile.out[row][column] = total;
    }
  }
}

// `position`: of the block's first key.
template <typename Element>
void attend_block(const AttentionTile& tile, const KeyBlock<Element>& block, int position,
                  SoftmaxState& state) {
  int key = block.first;
  for (; key + kKeysAtOnce <= block.end; key += kKeysAtOnce) {
    score_keys<kKeysAtOnce>(tile, block, key, state);
  }
  for (; key < block.end; ++key) score_keys<1>(tile, block, key, state);
  for (int row = 0; row < tile.rows; ++row) {
    soften(row, std::max(tile.first_key[row] - position, 0),
           std::max(std::min(tile.end_key[row] - position, block.end), 0), block.end, state);
  }
  weigh(tile, block, state);
}

// A block of bf16 as floats, when several groups of rows are to read it.
HWY_INLINE KeyBlock<float> widen(const KeyBlock<uint16_t>& block, int row_dim, float* to) {
  for (int key = block.first; key < block.end; ++key) {
    const uint16_t* from = block.keys + key * block.stride;
    float* row = to + key * row_dim;
    int i = 0;
    for (; i + kLanes <= row_dim; i += kLanes) {
      hwy::Prefetch(from + kPrefetchKeys * block.stride + i);
      store(load(from + i), row + i);
    }
    for (; i < row_dim; ++i) row[i] = to_float(from[i]);
  }
  return {
      to,       to + (block.values - block.keys), row_dim, block.k_dim, block.v_dim, block.first,
      block.end};
}

void finish_row(const AttentionTile& tile, int row, const SoftmaxState& state) {
  const float total = state.sum[row];
  const float factor = total > 0 ? 1 / total : 0.0F;
  float* out = tile.out[row];
  for (int i = 0; i < tile.cache->v_dim; ++i) out[i] *= factor;
  if (tile.lse[row] != nullptr) {
    *tile.lse[row] = total > 0 ? state.max[row] + std::log(total) : kNone;
  }
}

template <typename Element>
void attend(const AttentionTile& tile) {
  const KvCacheView& cache = *tile.cache;
  SoftmaxState state;
  for (int row = 0; row < tile.rows; ++row) {
    state.max[row] = kNone;
    state.sum[row] = 0;
    std::fill(tile.out[row], tile.out[row] + cache.v_dim, 0.0F);
  }
  const int first_key = *std::min_element(tile.first_key, tile.first_key + tile.rows);
  const int end_key = *std::max_element(tile.end_key, tile.end_key + tile.rows);
  const int block_keys = cache.row_dim > kWideRow ? kBlockKeys / 2 : kBlockKeys;
  KeyBlock<Element> block;
  block.stride = cache.token_elements();
  block.k_dim = cache.k_dim;
  block.v_dim = cache.v_dim;
  for (int page = first_key / cache.page_size; page * cache.page_size < end_key; ++page) {
    if (page % tile.cp_size != tile.cp_rank) continue;
    const int64_t slot = int64_t{tile.pages[page / tile.cp_size]} * cache.page_size;
    for (int place = 0; place < cache.page_size; place += block_keys) {
      const int position = page * cache.page_size + place;
      block.first = std::max(first_key - position, 0);
      block.end = std::min({end_key - position, cache.page_size - place, block_keys});
      if (block.first >= block.end) continue;
      block.keys = reinterpret_cast<const Element*>(cache.data) + (slot + place) * block.stride +
                   tile.kv_head * cache.row_dim;
      block.values = block.keys + cache.v_offset;
      if constexpr (std::is_same_v<Element, uint16_t>) {
        if (tile.rows > kRowsAtOnce && cache.row_dim <= kWidenedDim) {
          HWY_ALIGN float widened[kBlockKeys / 2 * kWidenedDim];
          attend_block(tile, widen(block, cache.row_dim, widened), position, state);
          continue;
        }
      }
      attend_block(tile, block, position, state);
    }
  }
  for (int row = 0; row < tile.rows; ++row) finish_row(tile, row, state);
}

void attend_tile(const AttentionTile& tile) {
  if (tile.cache->dtype == DType::kBF16) {
    attend<uint16_t>(tile);
  } else {
    attend<float>(tile);
  }
}

}  // namespace wideep::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wideep::kernels {
namespace {

HWY_EXPORT(attend_tile);

// Tiles of all sequences are numbered in order: by sequence, KV head and rows.
class Tiles {
 public:
  explicit Tiles(const AttentionParams& params)
      : params_(params), group_(params.num_heads / params.cache.kv_heads) {}

  int of_sequence(const AttentionSequence& sequence) const {
    return params_.cache.kv_heads * of_head(sequence);
  }

  // Tile `index` of a sequence.
  AttentionTile at(const AttentionSequence& sequence, int index) const {
    const int kv_head = index / of_head(sequence);
    const int first = index % of_head(sequence) * kAttentionTileRows;
    AttentionTile tile;
    tile.rows = std::min(kAttentionTileRows, sequence.num_rows * group_ - first);
    for (int i = 0; i < tile.rows; ++i) {
      const int row = (first + i) / group_;
      const int head = kv_head * group_ + (first + i) % group_;
      const int position = sequence.first_position + row;
      const int64_t place = sequence.first_row + row;
      tile.q[i] = params_.q.row<float>(place) + int64_t{head} * params_.cache.k_dim;
      tile.out[i] = params_.out.row<float>(place) + int64_t{head} * params_.cache.v_dim;
      tile.lse[i] =
          params_.lse != nullptr ? params_.lse + place * params_.num_heads + head : nullptr;
      tile.first_key[i] =
          params_.chunk_size > 0 ? position / params_.chunk_size * params_.chunk_size : 0;
      tile.end_key[i] = position + 1;
    }
    tile.cache = &params_.cache;
    tile.pages = sequence.pages;
    tile.kv_head = kv_head;
    tile.cp_size = params_.cp_size;
    tile.cp_rank = params_.cp_rank;
    tile.scale = params_.scale;
    return tile;
  }

 private:
  int of_head(const AttentionSequence& sequence) const {
    return (sequence.num_rows * group_ + kAttentionTileRows - 1) / kAttentionTileRows;
  }

  const AttentionParams& params_;
  int group_;  // query heads that share a KV head
};

void check_cache(const KvCacheView& cache) {
  CHECK(cache.dtype == DType::kF32 || cache.dtype == DType::kBF16);
  CHECK(cache.page_size > 0 && cache.kv_heads > 0 && cache.k_dim <= cache.row_dim);
  CHECK(cache.v_offset >= 0 && cache.v_offset + cache.v_dim <= cache.row_dim);
}

void check_params(const AttentionParams& params) {
  check_cache(params.cache);
  CHECK(params.num_heads % params.cache.kv_heads == 0);
  CHECK(params.q.dtype == DType::kF32 && params.out.dtype == DType::kF32);
  CHECK(params.q.columns == int64_t{params.num_heads} * params.cache.k_dim);
  CHECK(params.out.columns == int64_t{params.num_heads} * params.cache.v_dim);
  CHECK(params.cp_size >= 1 && params.cp_rank >= 0 && params.cp_rank < params.cp_size);
  for (const AttentionSequence& sequence : params.sequences) {
    CHECK(sequence.num_rows >= 0 && sequence.first_position >= 0 && sequence.first_row >= 0);
    CHECK(sequence.first_row + sequence.num_rows <= std::min(params.q.rows, params.out.rows));
  }
}

}  // namespace

void kv_append(Stream& stream, ConstMatrixView rows, std::span<const int64_t> slots,
               const KvCacheView& cache) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::kv_append(stream, rows, slots, cache);
  }
  check_cache(cache);
  CHECK(rows.dtype == DType::kF32 && rows.columns == cache.token_elements());
  CHECK(rows.rows == static_cast<int64_t>(slots.size()));
  const int64_t elements = cache.token_elements();
  parallel_ranges(stream, rows.rows, 0.4 * static_cast<double>(elements),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t t = begin; t < end; ++t) {
                      if (slots[t] < 0) continue;
                      const auto* from = rows.row<float>(t);
                      if (cache.dtype == DType::kF32) {
                        auto* to = reinterpret_cast<float*>(cache.data) + slots[t] * elements;
                        std::copy_n(from, elements, to);
                      } else {
                        auto* to = reinterpret_cast<uint16_t*>(cache.data) + slots[t] * elements;
                        for (int64_t i = 0; i < elements; ++i) to[i] = float_to_bf16(from[i]);
                      }
                    }
                  });
}

void attention(Stream& stream, const AttentionParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::attention(stream, params);
  }
  check_params(params);
  const Tiles tiles(params);
  int64_t num_tiles = 0;
  double keys = 0;  // of all query rows
  for (const AttentionSequence& sequence : params.sequences) {
    num_tiles += tiles.of_sequence(sequence);
    keys += static_cast<double>(sequence.num_rows) * params.num_heads *
            (sequence.first_position + sequence.num_rows) / params.cp_size;
  }
  if (num_tiles == 0) return;
  // One nanosecond for about 32 multiplications.
  const double nanoseconds = keys * (params.cache.k_dim + params.cache.v_dim) / 32;
  parallel_ranges(stream, num_tiles, nanoseconds / static_cast<double>(num_tiles),
                  [&](int64_t tile, int64_t end) {
                    int64_t first = 0;  // tile of the sequence
                    for (const AttentionSequence& sequence : params.sequences) {
                      const int64_t next = first + tiles.of_sequence(sequence);
                      for (; tile < std::min(next, end); ++tile) {
                        HWY_DYNAMIC_DISPATCH(attend_tile)
                        (tiles.at(sequence, static_cast<int>(tile - first)));
                      }
                      if (tile == end) return;
                      first = next;
                    }
                  });
}

void merge_attention(Stream& stream, const MergeAttentionParams& params) {
  if constexpr (kHasCuda) {
    if (stream.is_cuda()) return cuda::merge_attention(stream, params);
  }
  const MatrixView& out = params.out;
  const size_t num_parts = params.parts.size();
  CHECK(num_parts == params.part_lses.size() && out.dtype == DType::kF32);
  CHECK(params.num_heads > 0 && out.columns % params.num_heads == 0);
  for (const ConstMatrixView& part : params.parts) {
    CHECK(part.dtype == DType::kF32 && part.rows == out.rows && part.columns == out.columns);
  }
  const int64_t v_dim = out.columns / params.num_heads;
  const auto merge_head = [&](int64_t row, int64_t head) {
    const auto lse = [&](size_t part) {
      return params.part_lses[part][row * params.num_heads + head];
    };
    float* to = out.row<float>(row) + head * v_dim;
    std::fill(to, to + v_dim, 0.0F);
    float max = -std::numeric_limits<float>::infinity();
    for (size_t part = 0; part < num_parts; ++part) max = std::max(max, lse(part));
    if (max == -std::numeric_limits<float>::infinity()) return;
    float total = 0;
    for (size_t part = 0; part < num_parts; ++part) total += std::exp(lse(part) - max);
    for (size_t part = 0; part < num_parts; ++part) {
      const float weight = std::exp(lse(part) - max) / total;
      const auto* from = params.parts[part].row<float>(row) + head * v_dim;
      for (int64_t i = 0; i < v_dim; ++i) to[i] += weight * from[i];
    }
  };
  const double nanoseconds = 0.3 * static_cast<double>(out.columns * num_parts);
  parallel_ranges(stream, out.rows, nanoseconds, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t head = 0; head < params.num_heads; ++head) merge_head(row, head);
    }
  });
}

}  // namespace wideep::kernels
#endif
