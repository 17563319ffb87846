// The fetching side of deep_gemm_fitted.cu: what a thread block has in shared memory, the warp that
// draws tiles and fills stages, and what the warps that multiply give it back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/adapters/fitted_tiles.cuh"
#include "kernels/bulk_copy.cuh"
#include "kernels/shared_barrier.cuh"
#include "kernels/shared_memory.cuh"

namespace wideep::kernels::fitted {

inline constexpr int kOutputs = 128;  // of a tile: as many as share a scale
inline constexpr int kMostRows = kMostWaves * kWave;
inline constexpr int kStages = 3;
inline constexpr int kWarpgroups = 2;
inline constexpr int kMathThreads = kWarpgroups * 128;
inline constexpr int kBoxBytes = 128;  // of a row or a weight: the inputs that share a scale

inline constexpr int kWeightBytes = kOutputs * kBoxBytes;
inline constexpr int kRowBytes = kMostRows * kBoxBytes;
inline constexpr int kWaveBytes = kWave * kOutputs * 2;  // of y

// What comes with a stage beside its boxes.
struct Note {
  float row_scales[kMostRows];
  FittedTile tile;  // in the first of a tile
};

// The tile drawn for the other block, with how many have been drawn. A block can be ahead of the
// other by a tile for each stage and one.
inline constexpr int kDraws = 8;

struct Shared {
  std::byte weights[kStages][kWeightBytes];
  std::byte rows[kStages][kRowBytes];
  std::byte y[kMostWaves][kWaveBytes];
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
  Groups groups;
  int weight_rows;  // from group to group
  int boxes;        // of inputs
  uint32_t* next_tile;
};

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ inline void meet_pair() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// The same place in a block of the pair.
__device__ inline uint32_t address_at(const volatile void* pointer, uint32_t rank) {
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

// To both blocks of the pair, by a warp that needs nothing more of the stage.
__device__ inline void give_back(Shared& shared, const Place& at) {
  const uint32_t lane = threadIdx.x % 32;
  if (lane >= kPair) return;
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                   address_at(&shared.empty[at.stage], lane))
               : "memory");
}

__device__ inline void fetch_box_for_pair(const CUtensorMap& map, int column, int row, void* to,
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
  CUtensorMap of[kMostWaves];
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
__device__ inline Fetches fetches_of(const Arguments& a, const CUtensorMap& weights,
                                     const RowMaps& rows, const FittedTile& tile) {
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

__device__ inline void fetch(const Fetches& f, Shared& shared, const Place& at, int input) {
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
__device__ inline bool elect() {
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
__device__ inline void fetch_tiles(const Arguments& a, const CUtensorMap& weights,
                                   const RowMaps& rows, Shared& shared) {
  TileFinder tiles(a.groups);
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

}  // namespace wideep::kernels::fitted
