// Which tile of which group a pair of thread blocks computes next, for deep_gemm_fitted.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace wideep::kernels::fitted {

inline constexpr int kPair = 2;       // blocks that have the same rows
inline constexpr int kWave = 64;      // rows
inline constexpr int kMostWaves = 4;  // of a tile

struct FittedTile {
  int first_row;  // of x and y
  int waves;      // 0: there are no more tiles
  int group;
  int output_block;  // of the pair's first block
};

struct Groups {
  const int* offsets;  // contiguous: where groups begin; null: masked
  const int* counts;   // rows in use; null: up to the next group
  int max_rows;        // masked: from group to group; contiguous: 0
  int count;
  int pairs;  // of output blocks
};

// Finds tiles by their numbers, which must ascend. By a warp; a lane has a group.
class TileFinder {
 public:
  __device__ explicit TileFinder(const Groups& groups) : groups_(groups) { look_at(0); }

  // No waves: there are not so many.
  __device__ FittedTile find(uint32_t number) {
    while (number >= end_) {
      if (first_group_ + 32 >= groups_.count) return {};
      look_at(first_group_ + 32);
    }
    const uint32_t has = __ballot_sync(~0U, number >= first_tile_ && number < own_end_);
    const int lane = __ffs(static_cast<int>(has)) - 1;
    const auto place = number - __shfl_sync(~0U, first_tile_, lane);
    const int waves = __shfl_sync(~0U, waves_, lane);
    const int turn = static_cast<int>(place) / groups_.pairs;
    const int wave = first_wave(turn, waves);
    FittedTile tile;
    tile.group = first_group_ + lane;
    tile.first_row = __shfl_sync(~0U, first_row_, lane) + wave * kWave;
    tile.waves = first_wave(turn + 1, waves) - wave;
    tile.output_block = static_cast<int>(place) % groups_.pairs * kPair;
    return tile;
  }
  // Of those that find() has passed; of all where it has found none.
  __device__ uint32_t count() const { return end_; }

 private:
  // Of a group's tile. A wave left alone would leave a warpgroup idle: it takes one from the tile
  // before.
  static __device__ int first_wave(int tile, int waves) {
    const int first = min(tile * kMostWaves, waves);
    const bool is_alone = waves % kMostWaves == 1 && waves > kMostWaves && first == waves - 1;
    return first - is_alone;
  }

  __device__ void look_at(int first_group) {
    first_group_ = first_group;
    const int group = first_group + static_cast<int>(threadIdx.x) % 32;
    waves_ = first_row_ = 0;
    if (group < groups_.count) {
      const bool is_masked = groups_.offsets == nullptr;
      const int room =
          is_masked ? groups_.max_rows : groups_.offsets[group + 1] - groups_.offsets[group];
      first_row_ = is_masked ? group * groups_.max_rows : groups_.offsets[group];
      const int rows = groups_.counts == nullptr ? room : min(groups_.counts[group], room);
      waves_ = (rows + kWave - 1) / kWave;
    }
    const int tiles = (waves_ + kMostWaves - 1) / kMostWaves;
    uint32_t sum = static_cast<uint32_t>(tiles * groups_.pairs);
    const uint32_t own = sum;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t before = __shfl_up_sync(~0U, sum, step);
      if (static_cast<int>(threadIdx.x) % 32 >= step) sum += before;
    }
    own_end_ = end_ + sum;
    first_tile_ = own_end_ - own;
    end_ = __shfl_sync(~0U, own_end_, 31);
  }

  const Groups& groups_;
  int first_group_ = 0;
  uint32_t end_ = 0;
  // Of the lane's group.
  int first_row_ = 0;
  int waves_ = 0;
  uint32_t first_tile_ = 0;
  uint32_t own_end_ = 0;
};

}  // namespace wideep::kernels::fitted
