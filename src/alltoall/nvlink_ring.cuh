// Rows on their way through a warp's own part of shared memory: it fetches them, as many ahead as
// there are places, and adds them up. Registers could not keep as much in flight. A thread reads
// only what it fetched itself, so nothing but its own copies is waited for: no barrier, no fence.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"
#include "alltoall/nvlink_sums.cuh"

namespace wideep::alltoall::device {

inline constexpr int kVectorsOfThread = 4;
// Columns that are summed at a time: a warp's registers hold no more.
inline constexpr int kChunkBytes = 32 * kVectorsOfThread * kVectorBytes;

// A row to be added to a sum. Lane i of a warp has the i-th.
struct Addend {
  const std::byte* row = nullptr;
  float weight = 1;
  uint32_t flags = 0;
};
enum AddendFlags : uint32_t {
  kOfPart = 1,     // goes to a sum of its own,
  kEndsPart = 2,   // which is rounded and added to the others after this one
  kEndsChunk = 4,  // the sum of these columns is complete
  kEndsItem = 8,   // and so is the whole row
  kNoRow = 16,     // nothing to add
};

// The sum of rows that becomes one: the lanes' addends in `present`, in the order of lanes.
struct Item {
  std::byte* to;
  int bytes;
  int number;  // below 32; handed to `done`
};

template <int kPlaces>
class SumRing {
 public:
  static constexpr int kBytes = kPlaces * kChunkBytes;

  // `memory`: kBytes of this warp's.
  __device__ explicit SumRing(std::byte* memory) : memory_(memory + kVectorBytes * lane_id()) {}

  __device__ bool is_empty() const { return count_ == 0; }

  // Fetches an item's rows, and finishes those before it meanwhile. done(number) is called by the
  // whole warp when an item has been stored.
  template <typename Done>
  __device__ void add(const Item& item, const Addend& addend, uint32_t present, const Done& done) {
    for (int offset = 0; offset < item.bytes; offset += kChunkBytes) {
      const int bytes = min(kChunkBytes, item.bytes - offset);
      const bool last_chunk = offset + kChunkBytes >= item.bytes;
      for (uint32_t left = present; left != 0; left &= left - 1) {
        const int lane = __ffs(static_cast<int>(left)) - 1;
        const auto* row = reinterpret_cast<const std::byte*>(
            __shfl_sync(kFullWarp, reinterpret_cast<uint64_t>(addend.row), lane));
        uint32_t what = __shfl_sync(kFullWarp, addend.flags, lane);
        if ((left & (left - 1)) == 0) what |= kEndsChunk | (last_chunk ? kEndsItem : 0U);
        what |= static_cast<uint32_t>(item.number) << 8 | static_cast<uint32_t>(bytes) << 16;
        const Chunk chunk = {item.to + offset, __shfl_sync(kFullWarp, addend.weight, lane), what};
        if (count_ == kPlaces) take<kPlaces - 1>(done);
        put(row + offset, bytes, chunk);
      }
    }
  }

  // Finishes what has been fetched.
  template <typename Done>
  __device__ void drain(const Done& done) {
    while (count_ > 0) take<0>(done);
  }

 private:
  struct Chunk {
    std::byte* to;
    float weight;
    uint32_t what;  // flags | item << 8 | bytes << 16
  };

  __device__ std::byte* place(int index) const { return memory_ + index * kChunkBytes; }

  __device__ void put(const std::byte* from, int bytes, const Chunk& chunk) {
    if ((chunk.what & kNoRow) == 0) {
      const uint32_t to = ptx::shared_address(place(next_));
      from += kVectorBytes * lane_id();
#pragma unroll
      for (int i = 0; i < kVectorsOfThread; ++i) {
        const int at = 32 * kVectorBytes * i;
        if (kVectorBytes * lane_id() + at < bytes) ptx::copy_async(to + at, from + at);
      }
    }
    ptx::commit_copies();
    if (lane_id() == next_) kept_ = chunk;
    next_ = next_ + 1 == kPlaces ? 0 : next_ + 1;
    ++count_;
  }

  // Adds the oldest chunk, of which at most kYounger were fetched later.
  template <int kYounger, typename Done>
  __device__ void take(const Done& done) {
    const int oldest = next_ >= count_ ? next_ - count_ : next_ - count_ + kPlaces;
    const uint32_t what = __shfl_sync(kFullWarp, kept_.what, oldest);
    const float weight = __shfl_sync(kFullWarp, kept_.weight, oldest);
    --count_;
    ptx::wait_copies<kYounger>();
    if ((what & kNoRow) == 0) add_row(place(oldest), weight, what);
    if ((what & kEndsChunk) == 0) return;
    auto* const to = reinterpret_cast<std::byte*>(
        __shfl_sync(kFullWarp, reinterpret_cast<uint64_t>(kept_.to), oldest));
    store(to, static_cast<int>(what >> 16));
    if ((what & kEndsItem) != 0) done(static_cast<int>(what >> 8 & 0xffU));
  }

  __device__ void add_row(const std::byte* from, float weight, uint32_t what) {
    uint4 row[kVectorsOfThread];
#pragma unroll
    for (int i = 0; i < kVectorsOfThread; ++i) {
      row[i] = *reinterpret_cast<const uint4*>(from + 32 * kVectorBytes * i);
    }
    if ((what & kOfPart) == 0) {
#pragma unroll
      for (int i = 0; i < kVectorsOfThread; ++i) total_.add(i, row[i], weight);
      return;
    }
#pragma unroll
    for (int i = 0; i < kVectorsOfThread; ++i) part_.add(i, row[i], weight);
    if ((what & kEndsPart) == 0) return;
#pragma unroll
    for (int i = 0; i < kVectorsOfThread; ++i) total_.add(i, part_.rounded(i), 1.0F);
    part_ = {};
  }

  __device__ void store(std::byte* to, int bytes) {
#pragma unroll
    for (int i = 0; i < kVectorsOfThread; ++i) {
      const int at = kVectorBytes * (lane_id() + 32 * i);
      if (at < bytes) ptx::store_row(to + at, total_.rounded(i));
    }
    total_ = {};
  }

  std::byte* const memory_;
  int next_ = 0;     // place
  int count_ = 0;    // of places in use
  Chunk kept_ = {};  // of the place with this lane's number
  Sum<kVectorsOfThread> total_;
  Sum<kVectorsOfThread> part_;
};

}  // namespace wideep::alltoall::device
