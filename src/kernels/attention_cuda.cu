// Attention on a GPU, for every shape and type: the check of the fast kernels and what takes over
// where they do not go.
//
// A block takes a tile of pairs (row, head) that share a KV head over the keys of its sequence, 32
// at a time, all in fp32:
//   keys    -> shared memory, as floats; each row of the cache serves as key and value
//   scores     a lane is a key: the dot products with the rows of its warp
//   softmax    online, by the warp that has the row; weights -> shared memory
//   out        a thread has a few columns of the tile's rows in registers
// Keys that a row does not see weigh 0, and keys that no row of the tile sees are zeros in shared
// memory, so that nothing but the sequence's own tokens is used.
//
// Few tiles are cut over the keys into parts, which a second kernel adds in ascending order. How
// many parts depends on the number of tiles alone: the same batch gives the same bits.
#include <algorithm>
#include <cmath>

#include "kernels/adapters/flashinfer.h"
#include "kernels/attention_tables.h"
#include "kernels/cuda_device.cuh"
#include "kernels/cuda_elements.cuh"
#include "kernels/cuda_ops.h"
#include "kernels/launch.cuh"
#include "kernels/shared_memory.cuh"

namespace wideep::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlockKeys = 32;  // a lane each
constexpr int kMaxParts = 32;
constexpr unsigned kAllLanes = 0xffffffffU;

struct Task {
  AttentionBatch batch;
  Elements q;
  int64_t q_stride;
  int num_heads;
  int group;  // query heads of a KV head
  float scale;
  int chunk_size;
  int cp_size;
  int cp_rank;

  Elements cache;
  int page_size;
  int kv_heads;
  int row_dim;
  int k_dim;
  int v_offset;
  int v_dim;
  bool has_vectors;  // rows of the cache are whole vectors of 16 bytes

  void* out;
  bool out_is_bf16;
  int64_t out_stride;
  float* lse;

  int parts;
  float* part_out;  // [parts, kv_heads, tiles, tile rows, v_dim], not normalised
  float* part_max;  // [parts, kv_heads, tiles, tile rows]
  float* part_sum;
};

__device__ void write_out(const Task& task, int64_t row, int64_t column, float value) {
  const int64_t i = row * task.out_stride + column;
  if (task.out_is_bf16) {
    static_cast<__nv_bfloat16*>(task.out)[i] = __float2bfloat16_rn(value);
  } else {
    static_cast<float*>(task.out)[i] = value;
  }
}

__host__ __device__ int key_stride(int row_dim) {
  // An odd number of 16 bytes: eight lanes that read 16 bytes of eight keys meet no bank twice.
  return ((row_dim + 3) / 4 | 1) * 4;
}
__host__ __device__ int query_stride(int k_dim) {
  return (k_dim + 3) / 4 * 4;
}

// A tile's place in the batch.
struct Tile {
  int sequence;
  int first;  // pair of the sequence
  int pairs;
  int first_row;
  int first_position;
  const int* pages;
};

// All threads call it.
__device__ Tile find_tile(const Task& task, int index, int tile_rows) {
  __shared__ int found;
  const AttentionBatch& batch = task.batch;
  for (int s = static_cast<int>(threadIdx.x); s < batch.num_sequences; s += kThreads) {
    if (batch.first_tile[s] <= index && index < batch.first_tile[s + 1]) found = s;
  }
  __syncthreads();
  Tile tile;
  tile.sequence = found;
  tile.first = (index - batch.first_tile[found]) * tile_rows;
  tile.pairs = min(batch.rows[found] * task.group - tile.first, tile_rows);
  tile.first_row = batch.first_row[found];
  tile.first_position = batch.first_position[found];
  tile.pages = batch.pages + batch.first_page[found];
  return tile;
}

// Keys of this rank are numbered without gaps: key i lies in its page i / page_size.
struct Keys {
  int begin;
  int end;
  int end_position;  // keys of positions from here on are unseen, and perhaps unwritten
};

__device__ int chunk_begin(const Task& task, int position) {
  return task.chunk_size > 0 && position >= 0 ? position / task.chunk_size * task.chunk_size : 0;
}

__device__ Keys keys_of(const Task& task, const Tile& tile, int part) {
  const int first = tile.first_position + tile.first / task.group;
  const int last = tile.first_position + (tile.first + tile.pairs - 1) / task.group;
  Keys keys;
  keys.end_position = last + 1;
  const int pages = (keys.end_position + task.page_size - 1) / task.page_size;
  const int all = (pages - task.cp_rank + task.cp_size - 1) / task.cp_size * task.page_size;
  const int begin = chunk_begin(task, first) / task.page_size / task.cp_size * task.page_size /
                    kBlockKeys * kBlockKeys;
  const int blocks = (max(all - begin, 0) + kBlockKeys - 1) / kBlockKeys;
  const int of_part = (blocks + task.parts - 1) / task.parts * kBlockKeys;
  keys.begin = begin + part * of_part;
  keys.end = min(keys.begin + of_part, all);
  return keys;
}

__device__ int position_of(const Task& task, int key) {
  return (key / task.page_size * task.cp_size + task.cp_rank) * task.page_size +
         key % task.page_size;
}

__device__ void load_queries(const Task& task, const Tile& tile, int kv_head, int tile_rows,
                             float* q) {
  const int stride = query_stride(task.k_dim);
  for (int i = static_cast<int>(threadIdx.x); i < tile_rows * stride; i += kThreads) {
    const int pair = i / stride;
    const int column = i % stride;
    float value = 0;
    if (pair < tile.pairs && column < task.k_dim) {
      const int row = tile.first_row + (tile.first + pair) / task.group;
      const int head = kv_head * task.group + (tile.first + pair) % task.group;
      value = task.q.at(row * task.q_stride + int64_t{head} * task.k_dim + column);
    }
    q[i] = value;
  }
}

// One row of the cache by one warp.
__device__ void load_key(const Task& task, int64_t element, int lane, float* to) {
  if (!task.has_vectors) {
    for (int c = lane; c < task.row_dim; c += 32) to[c] = task.cache.at(element + c);
  } else if (task.cache.is_bf16) {
    const auto* from = static_cast<const __nv_bfloat16*>(task.cache.data) + element;
    for (int c = 8 * lane; c < task.row_dim; c += 8 * 32) {
      const uint4 raw = *reinterpret_cast<const uint4*>(from + c);
      const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&raw);
      const float2 a = __bfloat1622float2(pairs[0]);
      const float2 b = __bfloat1622float2(pairs[1]);
      const float2 d = __bfloat1622float2(pairs[2]);
      const float2 e = __bfloat1622float2(pairs[3]);
      *reinterpret_cast<float4*>(to + c) = {a.x, a.y, b.x, b.y};
      *reinterpret_cast<float4*>(to + c + 4) = {d.x, d.y, e.x, e.y};
    }
  } else {
    const auto* from = static_cast<const float*>(task.cache.data) + element;
    for (int c = 4 * lane; c < task.row_dim; c += 4 * 32) {
      *reinterpret_cast<float4*>(to + c) = *reinterpret_cast<const float4*>(from + c);
    }
  }
}

__device__ void load_keys(const Task& task, const Tile& tile, const Keys& keys, int block,
                          int kv_head, float* to) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int stride = key_stride(task.row_dim);
  for (int k = warp; k < kBlockKeys; k += kWarps) {
    const int key = block + k;
    float* row = to + k * stride;
    if (key < keys.end && position_of(task, key) < keys.end_position) {
      const int64_t slot =
          int64_t{tile.pages[key / task.page_size]} * task.page_size + key % task.page_size;
      load_key(task, (slot * task.kv_heads + kv_head) * task.row_dim, lane, row);
    } else {
      for (int c = lane; c < task.row_dim; c += 32) row[c] = 0;
    }
  }
}

// The warp's rows times the lane's key.
template <int kRows>
__device__ void score(const Task& task, const float* q, const float* key, float (&scores)[kRows]) {
  const int stride = query_stride(task.k_dim);
  int i = 0;
  for (; i + 4 <= task.k_dim; i += 4) {
    const float4 k = *reinterpret_cast<const float4*>(key + i);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 x = *reinterpret_cast<const float4*>(q + r * stride + i);
      scores[r] = fmaf(x.x, k.x, scores[r]);
      scores[r] = fmaf(x.y, k.y, scores[r]);
      scores[r] = fmaf(x.z, k.z, scores[r]);
      scores[r] = fmaf(x.w, k.w, scores[r]);
    }
  }
  for (; i < task.k_dim; ++i) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) scores[r] = fmaf(q[r * stride + i], key[i], scores[r]);
  }
}

__device__ float max_of_warp(float value) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}
__device__ float sum_of_warp(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

struct RowState {
  float max = -INFINITY;
  float sum = 0;
};

// Turns a lane's score into its weight; returns what earlier sums are to be multiplied with.
__device__ float soften(float& score, RowState& state) {
  const float new_max = fmaxf(state.max, max_of_warp(score));
  if (new_max == -INFINITY) {
    score = 0;
    return 1;
  }
  score = expf(score - new_max);
  const float correction = expf(state.max - new_max);
  state.max = new_max;
  state.sum = state.sum * correction + sum_of_warp(score);
  return correction;
}

template <int kTileRows>
struct Shared {
  static constexpr int kWeightStride = kTileRows + 4;

  float* q;       // [tile rows, query_stride]
  float* keys;    // [kBlockKeys, key_stride]
  float* weight;  // [kBlockKeys, kWeightStride]
  float* factor;  // [tile rows] corrections; at the end 1 / sum

  static int64_t bytes(int k_dim, int row_dim) {
    return int64_t{sizeof(float)} *
           (kTileRows * query_stride(k_dim) + kBlockKeys * (key_stride(row_dim) + kWeightStride) +
            kTileRows);
  }
  __device__ Shared(const Task& task, float* memory) {
    q = memory;
    keys = q + kTileRows * query_stride(task.k_dim);
    weight = keys + kBlockKeys * key_stride(task.row_dim);
    factor = weight + kBlockKeys * kWeightStride;
  }
};

// Threads are laid out as row groups x columns; each has kColumns columns of its group's rows.
template <int kTileRows, int kRowGroups, int kColumns>
__global__ void __launch_bounds__(kThreads) attention_kernel(const __grid_constant__ Task task) {
  follow_previous_kernel();
  constexpr int kRowsOfWarp = kTileRows / kWarps;
  constexpr int kRowsOfThread = kTileRows / kRowGroups;
  constexpr int kColumnThreads = kThreads / kRowGroups;
  extern __shared__ __align__(16) float memory[];
  const Shared<kTileRows> shared(task, memory);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_of_warp = warp * kRowsOfWarp;
  const int first_of_thread = static_cast<int>(threadIdx.x) / kColumnThreads * kRowsOfThread;
  const int column = static_cast<int>(threadIdx.x) % kColumnThreads;

  // Late tiles have the most keys, and begin first.
  const int index = task.batch.num_tiles - 1 - static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int part = static_cast<int>(blockIdx.z);
  const Tile tile = find_tile(task, index, kTileRows);
  const Keys keys = keys_of(task, tile, part);
  load_queries(task, tile, kv_head, kTileRows, shared.q);

  RowState states[kRowsOfWarp];
  float out[kRowsOfThread][kColumns] = {};
  for (int block = keys.begin; block < keys.end; block += kBlockKeys) {
    load_keys(task, tile, keys, block, kv_head, shared.keys);
    __syncthreads();

    float scores[kRowsOfWarp] = {};
    score(task, shared.q + first_of_warp * query_stride(task.k_dim),
          shared.keys + lane * key_stride(task.row_dim), scores);
    const int key_position = position_of(task, block + lane);
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const int pair = first_of_warp + r;
      const int position = tile.first_position + (tile.first + pair) / task.group;
      const bool is_seen = pair < tile.pairs && block + lane < keys.end &&
                           key_position <= position && key_position >= chunk_begin(task, position);
      scores[r] = is_seen ? scores[r] * task.scale : -INFINITY;
      const float correction = soften(scores[r], states[r]);
      shared.weight[lane * Shared<kTileRows>::kWeightStride + pair] = scores[r];
      if (lane == 0) shared.factor[pair] = correction;
    }
    __syncthreads();

#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
      const float correction = shared.factor[first_of_thread + r];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) out[r][c] *= correction;
    }
    for (int k = 0; k < kBlockKeys; ++k) {
      float values[kColumns];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int i = column + c * kColumnThreads;
        values[c] =
            i < task.v_dim ? shared.keys[k * key_stride(task.row_dim) + task.v_offset + i] : 0.0F;
      }
      const float* weights = shared.weight + k * Shared<kTileRows>::kWeightStride + first_of_thread;
#pragma unroll
      for (int r = 0; r < kRowsOfThread; r += 4) {
        const float4 four = *reinterpret_cast<const float4*>(weights + r);
        const float weight[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            out[r + j][c] = fmaf(weight[j], values[c], out[r + j][c]);
          }
        }
      }
    }
    __syncthreads();
  }

  const int64_t place =
      (int64_t{part} * task.kv_heads + kv_head) * task.batch.num_tiles * kTileRows +
      int64_t{index} * kTileRows;
  if (lane == 0) {
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const int pair = first_of_warp + r;
      const RowState& state = states[r];
      if (task.parts > 1) {
        task.part_max[place + pair] = state.max;
        task.part_sum[place + pair] = state.sum;
        continue;
      }
      shared.factor[pair] = state.sum > 0 ? 1 / state.sum : 0;
      if (task.lse == nullptr || pair >= tile.pairs) continue;
      const int64_t row = tile.first_row + (tile.first + pair) / task.group;
      const int head = kv_head * task.group + (tile.first + pair) % task.group;
      task.lse[row * task.num_heads + head] =
          state.sum > 0 ? state.max + logf(state.sum) : -INFINITY;
    }
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int pair = first_of_thread + r;
    if (pair >= tile.pairs) continue;
    const int64_t row = tile.first_row + (tile.first + pair) / task.group;
    const int head = kv_head * task.group + (tile.first + pair) % task.group;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int i = column + c * kColumnThreads;
      if (i >= task.v_dim) continue;
      if (task.parts > 1) {
        task.part_out[(place + pair) * task.v_dim + i] = out[r][c];
      } else {
        write_out(task, row, int64_t{head} * task.v_dim + i, out[r][c] * shared.factor[pair]);
      }
    }
  }
}

// A block for each pair of row and head: adds its parts.
__global__ void add_parts_kernel(const __grid_constant__ Task task, int tile_rows) {
  follow_previous_kernel();
  const int index = static_cast<int>(blockIdx.x) / tile_rows;
  const int pair = static_cast<int>(blockIdx.x) % tile_rows;
  const int kv_head = static_cast<int>(blockIdx.y);
  const Tile tile = find_tile(task, index, tile_rows);
  if (pair >= tile.pairs) return;
  const int64_t row = tile.first_row + (tile.first + pair) / task.group;
  const int head = kv_head * task.group + (tile.first + pair) % task.group;
  const int64_t step = int64_t{task.kv_heads} * task.batch.num_tiles * tile_rows;
  const int64_t place = (int64_t{kv_head} * task.batch.num_tiles + index) * tile_rows + pair;

  float max = -INFINITY;
  for (int p = 0; p < task.parts; ++p) max = fmaxf(max, task.part_max[place + p * step]);
  float sum = 0;
  float weights[kMaxParts];
#pragma unroll
  for (int p = 0; p < kMaxParts; ++p) {
    if (p >= task.parts) break;
    const float part_max = task.part_max[place + p * step];
    weights[p] = part_max == -INFINITY ? 0 : expf(part_max - max);
    sum += weights[p] * task.part_sum[place + p * step];
  }
  const float factor = sum > 0 ? 1 / sum : 0;
  for (int i = static_cast<int>(threadIdx.x); i < task.v_dim; i += kThreads) {
    float total = 0;
#pragma unroll
    for (int p = 0; p < kMaxParts; ++p) {
      if (p >= task.parts) break;
      total = fmaf(weights[p], task.part_out[(place + p * step) * task.v_dim + i], total);
    }
    write_out(task, row, int64_t{head} * task.v_dim + i, total * factor);
  }
  if (threadIdx.x == 0 && task.lse != nullptr) {
    task.lse[row * task.num_heads + head] = sum > 0 ? max + logf(sum) : -INFINITY;
  }
}

template <int kTileRows, int kRowGroups, int kColumns>
void launch(Stream& stream, const Task& task) {
  const auto kernel = attention_kernel<kTileRows, kRowGroups, kColumns>;
  const auto bytes = static_cast<size_t>(Shared<kTileRows>::bytes(task.k_dim, task.row_dim));
  allow_shared_memory(kernel);
  const dim3 grid(task.batch.num_tiles, task.kv_heads, task.parts);
  launch_kernel(stream, {grid, kThreads, bytes}, kernel, task);
  check_launch(stream, "attention");
}

template <int kTileRows>
void launch_for_dims(Stream& stream, const Task& task) {
  if (task.v_dim <= kThreads / 2) {
    launch<kTileRows, 2, 1>(stream, task);
  } else if (task.v_dim <= kThreads) {
    launch<kTileRows, 1, 1>(stream, task);
  } else {
    launch<kTileRows, 1, 2>(stream, task);
  }
}

// Parts of the keys, so that a few tiles keep all multiprocessors busy, and their workspace.
void choose_parts(const Stream& stream, Task& task) {
  const OpContext& context = stream.context();
  const int64_t tiles = int64_t{task.batch.num_tiles} * task.kv_heads;
  const int64_t rows = tiles * task.batch.tile_pairs;
  const int64_t row_floats = task.v_dim + 2;
  const int64_t fitting =
      context.workspace_bytes() / (rows * row_floats * static_cast<int64_t>(sizeof(float)));
  task.parts = static_cast<int>(
      std::clamp<int64_t>(std::min(context.num_sms() / tiles, fitting), 1, kMaxParts));
  if (task.parts == 1) return;
  const int64_t part_rows = rows * task.parts;
  task.part_out = context.workspace<float>(part_rows * row_floats).data();
  task.part_max = task.part_out + part_rows * task.v_dim;
  task.part_sum = task.part_max + part_rows;
}

bool is_aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

Task task_of(const Stream& stream, const AttentionParams& params) {
  const KvCacheView& cache = params.cache;
  Task task = {};
  task.batch = params.tables->batch();
  task.q = elements_of(params.q.data, params.q.dtype);
  task.q_stride = params.q.stride;
  task.num_heads = params.num_heads;
  task.group = params.num_heads / cache.kv_heads;
  task.scale = params.scale;
  task.chunk_size = params.chunk_size;
  task.cp_size = params.cp_size;
  task.cp_rank = params.cp_rank;
  task.cache = elements_of(cache.data, cache.dtype);
  task.page_size = cache.page_size;
  task.kv_heads = cache.kv_heads;
  task.row_dim = cache.row_dim;
  task.k_dim = cache.k_dim;
  task.v_offset = cache.v_offset;
  task.v_dim = cache.v_dim;
  task.has_vectors = cache.row_dim * dtype_size(cache.dtype) % 16 == 0 && is_aligned(cache.data);
  task.out = params.out.data;
  task.out_is_bf16 = elements_of(params.out.data, params.out.dtype).is_bf16;
  task.out_stride = params.out.stride;
  task.lse = params.lse;
  choose_parts(stream, task);
  return task;
}

void check_params(const AttentionParams& params) {
  const KvCacheView& cache = params.cache;
  CHECK(params.tables != nullptr);
  const AttentionTablesOptions& options = params.tables->options();
  CHECK(params.num_heads == options.num_heads && cache.kv_heads == options.kv_heads);
  CHECK(cache.k_dim == options.k_dim && cache.v_dim == options.v_dim);
  CHECK(cache.page_size == options.page_size && cache.row_dim <= kMaxAttentionRowDim);
  CHECK(params.cp_size == options.cp_size && params.cp_rank == options.cp_rank);
  CHECK(params.q.columns == int64_t{params.num_heads} * cache.k_dim);
  CHECK(params.out.columns == int64_t{params.num_heads} * cache.v_dim);
  CHECK(cache.v_offset >= 0 && cache.v_offset + cache.v_dim <= cache.row_dim);
}

}  // namespace

namespace {

// Whether one of the fast kernels took it.
bool attend_fast(Stream& stream, const AttentionParams& params) {
  if constexpr (adapters::kHasFlashInfer) {
    if (adapters::takes_latent(params)) {
      adapters::latent_attention(stream, params);
      return true;
    }
    if (adapters::takes_grouped(params)) {
      adapters::grouped_attention(stream, params);
      return true;
    }
  }
  return false;
}

}  // namespace

void attention(Stream& stream, const AttentionParams& params) {
  check_params(params);
  if (params.tables->batch().num_tiles == 0) return;
  if (const AttentionTables* plain = params.tables->plain(params.chunk_size);
      adapters::kHasFlashInfer && plain != nullptr) {
    AttentionParams simpler = params;
    simpler.tables = plain;
    simpler.chunk_size = 0;
    simpler.cp_size = 1;
    simpler.cp_rank = 0;
    if (attend_fast(stream, simpler)) return;
  }
  const Task task = task_of(stream, params);
  if (task.batch.tile_pairs == 8) {
    launch_for_dims<8>(stream, task);
  } else {
    launch_for_dims<32>(stream, task);
  }
  if (task.parts == 1) return;
  const dim3 grid(task.batch.num_tiles * task.batch.tile_pairs, task.kv_heads);
  launch_kernel(stream, {grid, kThreads}, add_parts_kernel, task, task.batch.tile_pairs);
  check_launch(stream, "attention: adding its parts");
}

void self_attention(Stream& stream, const SelfAttentionParams& params) {
  CHECK(params.tables != nullptr && params.num_heads == params.tables->options().num_heads);
  if (params.tables->batch().num_rows == 0) return;
  CHECK(params.tables->self() != nullptr);
  if constexpr (adapters::kHasFlashInfer) adapters::self_attention(stream, params);
}

}  // namespace wideep::kernels::cuda
