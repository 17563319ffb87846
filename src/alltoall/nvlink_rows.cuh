// Rows on their way through shared memory: pieces that the copy engine brings and takes away, and
// that a warp quantises in between.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"
#include "alltoall/quantize.cuh"

namespace wideep::alltoall::device {

// Words of 4 bytes, for scales that are given, whose rows need no alignment.
__device__ inline void spread_words(const float* from, int words, const Places& places) {
  for (int base = 0; base < words; base += 32) {
    const int w = base + lane_id();
    const float value = w < words ? from[w] : 0;
    for_each_place(places, [&](std::byte* to) {
      if (w < words) reinterpret_cast<float*>(to)[w] = value;
    });
  }
}

// How rows are cut: into as few pieces as places can hold, as even as may be.
struct Cut {
  static constexpr int kMostBytes = 8192;

  int row_bytes;
  int piece_bytes;  // of each but the last
  int count;

  __device__ Cut(int64_t bytes, int unit)
      : row_bytes(static_cast<int>(bytes)), count((row_bytes + kMostBytes - 1) / kMostBytes) {
    piece_bytes = ((row_bytes + count - 1) / count + unit - 1) / unit * unit;
  }
};

// The rows of a warp's tokens, piece by piece: fetched ahead, and sent from where they are.
class RowRing {
 public:
  static constexpr int kPlaces = 3;
  // Pieces that may be on their way to where they are sent; the other places are being filled.
  static constexpr int kTravelling = 1;

  struct Memory {
    std::byte places[kPlaces][Cut::kMostBytes];
  };

  __device__ RowRing(const DispatchArgs& a, Range tokens, const Cut& cut, Memory& memory,
                     uint64_t* full)
      : a_(a), cut_(cut), memory_(memory), full_(full), first_(tokens.begin), end_(tokens.end) {}

  // Fetches the first pieces.
  __device__ void begin() {
    if (lane_id() == 0) {
      for (int i = 0; i < kPlaces; ++i) ptx::init_barrier(&full_[i], 1);
      ptx::fence_shared_for_bulk();
#pragma unroll 1
      for (int i = 0; i < kPlaces; ++i) fetch();
    }
    __syncwarp();
  }
  // Waits for what begin() fetched, where nothing is sent.
  __device__ void abandon() {
    const int pieces = (end_ - first_) * cut_.count;
#pragma unroll 1
    for (int i = 0; i < min(pieces, kPlaces); ++i) ptx::wait(&full_[i], 0);
  }
  // The next piece, when it has come.
  __device__ std::byte* next() {
    ptx::wait(&full_[take_], parity_);
    return memory_.places[take_];
  }
  // Ends what the lanes send of a piece, and fetches another to where one has left.
  __device__ void sent() {
    ptx::commit_bulk();
    ptx::wait_bulk<kTravelling>();
    __syncwarp();  // all lanes' has
    if (waiting_ > 0) {
      --waiting_;
    } else if (lane_id() == 0) {
      fetch();
    }
    if (++take_ == kPlaces) {
      take_ = 0;
      parity_ ^= 1;
    }
  }
  // Of so many rows that have been sent, those that have arrived for certain.
  __device__ int arrived(int rows) const {
    return max(0, rows - (kTravelling + cut_.count - 1) / cut_.count);
  }

 private:
  __device__ void fetch() {
    if (token_ == end_) return;
    const int bytes = min(cut_.piece_bytes, cut_.row_bytes - offset_);
    ptx::fetch_bulk(memory_.places[put_], a_.rows + token_ * a_.row_stride + offset_, bytes,
                    &full_[put_]);
    put_ = put_ + 1 == kPlaces ? 0 : put_ + 1;
    offset_ += cut_.piece_bytes;
    if (offset_ >= cut_.row_bytes) {
      offset_ = 0;
      ++token_;
    }
  }

  const DispatchArgs& a_;
  const Cut& cut_;
  Memory& memory_;
  uint64_t* const full_;
  const int first_;
  const int end_;
  int waiting_ = kTravelling;  // pieces that are sent before the next is fetched
  int take_ = 0;               // the next piece's place
  uint32_t parity_ = 0;
  // Of the lane that fetches: what comes next, and to which place.
  int token_ = first_;
  int offset_ = 0;
  int put_ = 0;
};

// Groups of columns that quantize_piece() takes at once.
inline constexpr int kGroupsAtOnce = 8;

// Quantises `groups` times 128 columns of BF16 where they lie, 32 at most: FP8 comes to begin where
// they do, and the scales, in whole vectors, to `scales`, which may lie behind them.
__device__ inline void quantize_piece(std::byte* piece, int groups, float* scales) {
  constexpr int kVectors = 2 * kScaleGroup / kVectorBytes;  // of a group
  constexpr int kGroups = 4;                                // of a step: 16 columns a lane
  constexpr int kSteps = kGroupsAtOnce / kGroups;
  static_assert(Cut::kMostBytes % (kGroupsAtOnce * kVectors * kVectorBytes) == 0);
  auto* const vectors = reinterpret_cast<uint4*>(piece);
  // A lane looks through a group; each begins elsewhere, to keep all banks busy.
  uint32_t largest = 0;
  if (lane_id() < groups) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      largest = max_magnitude(
          largest, largest_of(vectors[kVectors * lane_id() + (i + lane_id()) % kVectors]));
    }
  }
  const GroupScale own = scale_of(largest);
  // Half of the lanes read their second vector first, for the banks.
  const int flip = lane_id() / 4 % 2;
#pragma unroll 1
  for (int base = 0; base < groups; base += kSteps * kGroups) {
    uint2 one[kSteps];
    uint2 other[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int first = base + kGroups * i;
      const float inverse = __shfl_sync(kFullWarp, own.inverse, first + lane_id() / 8);
      const uint4* from = vectors + kVectors * first + 2 * lane_id();
      one[i] = round8(from[flip], inverse);
      other[i] = round8(from[1 - flip], inverse);
    }
    __syncwarp();  // all have read what is overwritten
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const uint2 low = flip == 0 ? one[i] : other[i];
      const uint2 high = flip == 0 ? other[i] : one[i];
      vectors[kVectors / 2 * (base + kGroups * i) + lane_id()] = {low.x, low.y, high.x, high.y};
    }
  }
  scales[lane_id()] = lane_id() < groups ? own.scale : 0;
}

}  // namespace wideep::alltoall::device
