// FP8 products of groups whose rows seldom fill tiles of 128: here a tile has up to four waves of
// 64 rows, as many as its share of the group needs, of 128 outputs. Fewer rows are computed in vain
// than by DeepGEMM's tiles, and weights are read once for up to 256 rows. The sums are DeepGEMM's
// to the last bit.
//
// A pair of thread blocks (a cluster) has the same rows and neighbouring outputs: each block
// fetches half of the rows for both. Tiles take different times, so pairs draw the next one from a
// counter. A block's last warpgroup has one warp, which draws and fetches; the other two have waves
// in turn.
#include <cute/numeric/integer_sequence.hpp>

#include <deep_gemm/common/math.cuh>
#include <deep_gemm/mma/sm90.cuh>

#include "kernels/adapters/deep_gemm_launch.cuh"
#include "kernels/adapters/fitted_tiles.cuh"
#include "kernels/bulk_copy.cuh"
#include "kernels/launch.cuh"
#include "kernels/shared_barrier.cuh"
#include "kernels/tensor_core.cuh"

namespace wideep::kernels {
namespace {

constexpr int kPair = kFittedPair;
constexpr int kWave = kFittedWave;
constexpr int kOutputs = 128;  // of a tile: as many as share a scale
constexpr int kMostRows = kFittedWaves * kWave;
constexpr int kStages = 3;
constexpr int kWarpgroups = 2;
constexpr int kMathThreads = kWarpgroups * 128;
constexpr int kThreads = kMathThreads + 128;
constexpr int kBoxBytes = 128;   // of a row or a weight: the inputs that share a scale
constexpr int kBoxOutputs = 64;  // of y: 128 bytes

constexpr int kWeightBytes = kOutputs * kBoxBytes;
constexpr int kRowBytes = kMostRows * kBoxBytes;
constexpr int kWaveBytes = kWave * kOutputs * 2;  // of y

// What comes with a stage beside its boxes.
struct Note {
  float row_scales[kMostRows];
  FittedTile tile;  // in the first of a tile
};

// The tile drawn for the other block, with how many have been drawn. A block can be ahead of the
// other by a tile for each stage and one.
constexpr int kDraws = 8;

struct Shared {
  std::byte weights[kStages][kWeightBytes];
  std::byte rows[kStages][kRowBytes];
  std::byte y[kFittedWaves][kWaveBytes];
  Note notes[kStages];
  uint64_t full[kStages];
  uint64_t empty[kStages];
  volatile uint64_t draws[kDraws];
};
static_assert(sizeof(Shared) <= kSharedMemory);

struct Arguments {
  const float* row_scales;
  int64_t row_scale_stride;
  int64_t group_row_scales;  // masked: from group to group; contiguous: 0
  const float* weight_scales;
  int64_t group_weight_scales;  // from group to group
  FittedGroups groups;
  int weight_rows;  // from group to group
  int boxes;        // of inputs
  uint32_t* next_tile;
};

__device__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ void meet_pair() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// The same place in a block of the pair.
__device__ uint32_t address_at(const volatile void* pointer, uint32_t rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(address)
               : "r"(shared_address(const_cast<const void*>(pointer))), "r"(rank));
  return address;
}

// Which stage comes next, to fetch or to multiply.
struct Place {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ void advance(int stages) {
    const int behind = stage + stages;
    stage = behind % kStages;
    parity ^= static_cast<uint32_t>(behind / kStages) & 1U;
  }
};

__device__ void fetch_box_for_pair(const CUtensorMap& map, int column, int row, void* to,
                                   uint64_t* full) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(full)), "r"(column), "r"(row),
      "h"(static_cast<uint16_t>((1 << kPair) - 1))
      : "memory");
}
// Of half of the rows of so many waves, which is what a block of a pair fetches.
struct RowMaps {
  CUtensorMap of[kFittedWaves];
};

// What a block fetches of a tile, box by box.
struct Fetches {
  const CUtensorMap* weights;
  const CUtensorMap* rows;
  int weight;  // the first
  int row;     // of x, the first of this block's half
  int half;    // where that is in the tile
  int waves;
  const float* scales;  // of the next box's rows
};
__device__ Fetches fetches_of(const Arguments& a, const CUtensorMap& weights, const RowMaps& rows,
                              const FittedTile& tile) {
  const auto rank = static_cast<int>(cluster_rank());
  Fetches f;
  f.weights = &weights;
  f.rows = &rows.of[tile.waves - 1];
  f.weight = tile.group * a.weight_rows + (tile.output_block + rank) * kOutputs;
  f.half = rank * tile.waves * (kWave / kPair);
  f.row = tile.first_row + f.half;
  f.waves = tile.waves;
  f.scales = a.row_scales + tile.group * a.group_row_scales + tile.first_row -
             int64_t{tile.group} * a.groups.max_rows;
  return f;
}

__device__ void fetch(const Fetches& f, Shared& shared, const Place& at, int input) {
  uint64_t* full = &shared.full[at.stage];
  expect_bytes(full, kWeightBytes + f.waves * kWave * (kBoxBytes + 4));
  fetch_box(*f.weights, input, f.weight, shared.weights[at.stage], full);
  fetch_box_for_pair(*f.rows, input, f.row, shared.rows[at.stage] + f.half * kBoxBytes, full);
  fetch_bytes(shared.notes[at.stage].row_scales, f.scales, f.waves * kWave * 4, full);
}

// The numbers of this pair's tiles: the first block of the pair draws, and tells the second.
class Draws {
 public:
  __device__ Draws(const Arguments& a, Shared& shared)
      : a_(a), shared_(shared), draws_(cluster_rank() == 0 && threadIdx.x % 32 == 0) {}

  // Begins to draw, and does not wait for it.
  __device__ void draw() {
    if (draws_) drawn_ = atomicAdd(a_.next_tile, 1);
  }
  // To the second block.
  __device__ void tell() {
    ++number_;
    if (!draws_) return;
    const uint64_t word = uint64_t{number_} << 32 | drawn_;
    asm volatile("st.relaxed.cluster.shared::cluster.u64 [%0], %1;" ::"r"(
                     address_at(&shared_.draws[number_ % kDraws], 1)),
                 "l"(word)
                 : "memory");
  }
  // What was told last.
  __device__ uint32_t take() {
    if (cluster_rank() != 0) {
      uint64_t word;
      do {
        word = shared_.draws[number_ % kDraws];
      } while (static_cast<uint32_t>(word >> 32) != number_);
      drawn_ = static_cast<uint32_t>(word);
    }
    return __shfl_sync(~0U, drawn_, 0);
  }
  // Each pair draws one number too many. The last to do so leaves the counter as it was.
  __device__ void finish(uint32_t tiles) {
    if (draws_ && drawn_ == tiles + gridDim.x / kPair - 1) *a_.next_tile = 0;
  }

 private:
  const Arguments& a_;
  Shared& shared_;
  bool draws_;
  uint32_t drawn_ = 0;
  uint32_t number_ = 0;
};

// One lane of a warp.
__device__ bool elect() {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
}

// By a warp.
__device__ void fetch_tiles(const Arguments& a, const CUtensorMap& weights, const RowMaps& rows,
                            Shared& shared) {
  FittedTiles tiles(a.groups);
  Draws draws(a, shared);
  Place at{0, 1};  // a barrier that nobody has used yet lets parity 1 pass
  draws.draw();
  draws.tell();
  while (true) {
    const FittedTile tile = tiles.find(draws.take());
    if (tile.waves == 0) break;
    draws.draw();
    Fetches fetches = fetches_of(a, weights, rows, tile);
    if (elect()) {
      Place place = at;
#pragma unroll 1  // few registers are left to this warp
      for (int box = 0; box < a.boxes; ++box, place.advance()) {
        wait(&shared.empty[place.stage], place.parity);
        if (box == 0) shared.notes[place.stage].tile = tile;
        fetch(fetches, shared, place, box * kBoxBytes);
        fetches.scales += a.row_scale_stride;
      }
    }
    __syncwarp();
    at.advance(a.boxes);
    draws.tell();
  }
  if (elect()) {
    wait(&shared.empty[at.stage], at.parity);
    shared.notes[at.stage].tile = {};
    arrive(&shared.full[at.stage]);
  }
  __syncwarp();
  draws.finish(tiles.count());
}

__device__ void meet_warpgroup(int warpgroup) {
  asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 1) : "memory");
}

// To both blocks of the pair, by a warp that needs nothing more of the stage.
__device__ void give_back(Shared& shared, const Place& at) {
  const uint32_t lane = threadIdx.x % 32;
  if (lane >= kPair) return;
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                   address_at(&shared.empty[at.stage], lane))
               : "memory");
}

// The products of a wave and a stage.
__device__ void multiply(Shared& shared, const Place& at, int wave,
                         float (&product)[kOutputs / 2]) {
  using Mma = typename deep_gemm::mma::sm90::FP8MMASelector<kOutputs>::type;
  const uint64_t rows = swizzled_descriptor(shared.rows[at.stage] + wave * kWave * kBoxBytes);
  const uint64_t weights = swizzled_descriptor(shared.weights[at.stage]);
  begin_products();
#pragma unroll
  for (int step = 0; step < kBoxBytes / Mma::K; ++step) {
    Mma::wgmma(rows + step * (Mma::K / 16), weights + step * (Mma::K / 16), product, step != 0);
  }
  commit_products();
  wait_products<0>(product);
}

// Of the thread's two rows of a wave, times the weights'.
__device__ float2 scales_of(const Shared& shared, const Place& at, int wave, float weight_scale) {
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread % 128 / 32 * 16 + thread % 32 / 4;
  const float* scales = shared.notes[at.stage].row_scales + wave * kWave + row;
  return {scales[0] * weight_scale, scales[8] * weight_scale};
}

// sum += product, scaled.
__device__ void add(const float (&product)[kOutputs / 2], float2 scales,
                    float (&sum)[kOutputs / 2]) {
#pragma unroll
  for (int i = 0; i < kOutputs / 8; ++i) {
    sum[i * 4 + 0] = fmaf(scales.x, product[i * 4 + 0], sum[i * 4 + 0]);
    sum[i * 4 + 1] = fmaf(scales.x, product[i * 4 + 1], sum[i * 4 + 1]);
    sum[i * 4 + 2] = fmaf(scales.y, product[i * 4 + 2], sum[i * 4 + 2]);
    sum[i * 4 + 3] = fmaf(scales.y, product[i * 4 + 3], sum[i * 4 + 3]);
  }
}

// Four matrices of 8 x 8; a lane has two neighbours of each.
__device__ void store_matrices(uint32_t address, const __nv_bfloat162 (&pairs)[4]) {
  const auto* words = reinterpret_cast<const uint32_t*>(pairs);
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

// A wave of y, as boxes of 64 outputs, swizzled by 128 bytes.
__device__ void stage_wave(std::byte* to, const float (&sum)[kOutputs / 2]) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int row = thread % 128 / 32 * 16 + lane % 16;
  const uint32_t address = shared_address(to) + static_cast<uint32_t>(row * 128);
#pragma unroll
  for (int i = 0; i < kOutputs / 8; i += 2) {
    const int eight = i % 8 + lane / 16;  // of a box's outputs
    const __nv_bfloat162 pairs[4] = {__float22bfloat162_rn({sum[i * 4 + 0], sum[i * 4 + 1]}),
                                     __float22bfloat162_rn({sum[i * 4 + 2], sum[i * 4 + 3]}),
                                     __float22bfloat162_rn({sum[i * 4 + 4], sum[i * 4 + 5]}),
                                     __float22bfloat162_rn({sum[i * 4 + 6], sum[i * 4 + 7]})};
    store_matrices(address + i / 8 * (kWaveBytes / 2) + (eight ^ row % 8) * 16, pairs);
  }
}

// The waves of a warpgroup: its number, and every second one from there on.
template <int kWaves>
__device__ void store_waves(const CUtensorMap& y, Shared& shared, int warpgroup,
                            const FittedTile& tile, const float (&sums)[kWaves][kOutputs / 2]) {
  const int in_warpgroup = static_cast<int>(threadIdx.x) % 128;
  constexpr int kBoxes = kOutputs / kBoxOutputs;
  // Those of the tile before have left.
  if (in_warpgroup < 32) wait_bulk_read<0>();
  meet_warpgroup(warpgroup);
#pragma unroll
  for (int i = 0; i < kWaves; ++i) {
    stage_wave(shared.y[warpgroup + i * kWarpgroups], sums[i]);
  }
  fence_shared_for_bulk();
  meet_warpgroup(warpgroup);
  if (in_warpgroup < kWaves * kBoxes) {
    const int wave = warpgroup + in_warpgroup / kBoxes * kWarpgroups;
    const int box = in_warpgroup % kBoxes;
    const int block = tile.output_block + static_cast<int>(cluster_rank());
    store_box(y, block * kOutputs + box * kBoxOutputs, tile.first_row + wave * kWave,
              shared.y[wave] + box * (kWaveBytes / kBoxes));
    commit_bulk();
  }
}

// kWaves of the tile's waves: the warpgroup's number, and every second one from there on.
template <int kWaves>
__device__ void multiply_waves(const Arguments& a, const CUtensorMap& y, Shared& shared, Place& at,
                               int warpgroup, const FittedTile& tile) {
  const int block = tile.output_block + static_cast<int>(cluster_rank());
  const float* weight_scales =
      a.weight_scales + tile.group * a.group_weight_scales + int64_t{block} * a.boxes;
  float sums[kWaves][kOutputs / 2] = {};
  float weight_scale = __ldg(weight_scales);
  for (int box = 0; box < a.boxes; ++box, at.advance()) {
    const float following = __ldg(weight_scales + min(box + 1, a.boxes - 1));
    wait(&shared.full[at.stage], at.parity);
#pragma unroll
    for (int i = 0; i < kWaves; ++i) {
      const int wave = warpgroup + i * kWarpgroups;
      const float2 scales = scales_of(shared, at, wave, weight_scale);
      float product[kOutputs / 2];
      multiply(shared, at, wave, product);
      if (i == kWaves - 1) give_back(shared, at);
      add(product, scales, sums[i]);
    }
    weight_scale = following;
  }
  store_waves<kWaves>(y, shared, warpgroup, tile, sums);
}

// By the second warpgroup, of a tile with one wave.
__device__ void pass_tile(const Arguments& a, Shared& shared, Place& at) {
  for (int box = 0; box < a.boxes; ++box, at.advance()) {
    wait(&shared.full[at.stage], at.parity);
    give_back(shared, at);
  }
}

__device__ void multiply_tiles(const Arguments& a, const CUtensorMap& y, Shared& shared) {
  // The same in all lanes, which the compiler cannot see.
  const int warpgroup = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 128, 0);
  Place at;
  while (true) {
    wait(&shared.full[at.stage], at.parity);
    const FittedTile tile = shared.notes[at.stage].tile;
    if (tile.waves == 0) break;
    const int waves = (tile.waves + 1 - warpgroup) / kWarpgroups;
    if (waves == 2) {
      multiply_waves<2>(a, y, shared, at, warpgroup, tile);
    } else if (waves == 1) {
      multiply_waves<1>(a, y, shared, at, warpgroup, tile);
    } else {
      pass_tile(a, shared, at);
    }
  }
  wait_bulk<0>();
}

__global__ void __launch_bounds__(kThreads, 1) __cluster_dims__(kPair, 1, 1)
    fitted_kernel(const __grid_constant__ Arguments a, const __grid_constant__ CUtensorMap weights,
                  const __grid_constant__ RowMaps rows, const __grid_constant__ CUtensorMap y) {
  extern __shared__ __align__(1024) std::byte memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      init_barrier(&shared.full[s], 1);
      init_barrier(&shared.empty[s], kPair * kMathThreads / 32);
    }
    for (int i = 0; i < kDraws; ++i) shared.draws[i] = 0;
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  meet_pair();
  allow_next_kernel();
  wait_for_previous_kernel();
  if (threadIdx.x >= kMathThreads) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x < kMathThreads + 32) fetch_tiles(a, weights, rows, shared);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    multiply_tiles(a, y, shared);
  }
  __syncwarp();
  // The other block may still give stages back to this one.
  meet_pair();
}

struct Maps {
  CUtensorMap weights;
  RowMaps rows;
  CUtensorMap y;
};
CUresult make_maps(const TensorMapEncoder& encoder, const DeepGemmProduct& p, Maps& maps) {
  const ConstMatrixView& x = p.x.data;
  CUresult result = encoder.encode({CU_TENSOR_MAP_DATA_TYPE_UINT8, p.weight, p.in,
                                    p.groups * weight_rows(p), p.in, kBoxBytes, kOutputs, 128},
                                   maps.weights);
  int height = 0;
  for (CUtensorMap& map : maps.rows.of) {
    height += kWave / kPair;
    if (result != CUDA_SUCCESS) return result;
    result = encoder.encode(
        {CU_TENSOR_MAP_DATA_TYPE_UINT8, x.data, p.in, x.rows, x.stride, kBoxBytes, height, 128},
        map);
  }
  if (result != CUDA_SUCCESS) return result;
  return encoder.encode({CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, p.y.data, p.out, p.y.rows,
                         p.y.stride * 2, kBoxOutputs, kWave, 128},
                        maps.y);
}

}  // namespace

bool can_multiply_fitted(const DeepGemmProduct& p) {
  return p.dtype == DType::kF8E4M3 && p.layout != DeepGemmProduct::Layout::kDense &&
         p.out % (kPair * kOutputs) == 0;
}

CUresult multiply_fitted(Stream& stream, const DeepGemmProduct& p) {
  Maps maps;
  const CUresult result = make_maps(stream.context().tensor_maps(), p, maps);
  if (result != CUDA_SUCCESS) return result;
  const bool is_masked = p.layout == DeepGemmProduct::Layout::kMasked;
  Arguments a{};
  a.boxes = (p.in + kScaleColumns - 1) / kScaleColumns;
  a.row_scales = p.x.scales;
  a.row_scale_stride = p.x.scale_stride;
  a.group_row_scales = is_masked ? a.boxes * p.x.scale_stride : 0;
  a.weight_scales = device_weight(p.weight, p.out, p.in, p.dtype).scales;
  a.group_weight_scales =
      device_weight_bytes(p.out, p.in, p.dtype) / static_cast<int64_t>(sizeof(float));
  a.groups.offsets = is_masked ? nullptr : p.groups_layout;
  a.groups.counts = is_masked ? p.groups_layout : p.counts;
  a.groups.max_rows = static_cast<int>(p.max_rows);
  a.groups.count = p.groups;
  a.groups.pairs = p.out / (kPair * kOutputs);
  a.weight_rows = static_cast<int>(weight_rows(p));
  a.next_tile = stream.context().counter();
  allow_shared_memory(fitted_kernel);
  const auto blocks = static_cast<unsigned>(stream.context().num_sms() / kPair * kPair);
  launch_kernel(stream, {blocks, kThreads, sizeof(Shared)}, fitted_kernel, a, maps.weights,
                maps.rows, maps.y);
  return CUDA_SUCCESS;
}

}  // namespace wideep::kernels
