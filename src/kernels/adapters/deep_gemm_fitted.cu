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
#include "kernels/adapters/fitted_fetch.cuh"
#include "kernels/bulk_copy.cuh"
#include "kernels/launch.cuh"
#include "kernels/shared_barrier.cuh"
#include "kernels/tensor_core.cuh"

namespace wideep::kernels {
namespace {

using namespace fitted;  // NOLINT: the kernel's own vocabulary

constexpr int kThreads = kMathThreads + 128;
constexpr int kBoxOutputs = 64;  // of y: 128 bytes

__device__ void meet_warpgroup(int warpgroup) {
  asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 1) : "memory");
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
