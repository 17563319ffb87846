// Which tile of which group a thread block computes next, for DeepGEMM's kernels with a number of
// groups that is known at run time only (DeepGEMM's own schedulers take it as a template argument),
// and with weights that lie device_weight_bytes apart.
//
// DeepGEMM's kernels use a scheduler through the members below and hand it shape_m without looking
// at it; here it says how many groups there are and, for the masked layout, how many rows each has.
#pragma once

#include <deep_gemm/scheduler/gemm.cuh>

#include "kernels/adapters/deep_gemm_kernels.h"

namespace wideep::kernels {

// Shared memory of the scheduler, in whole alignments of what comes behind it.
inline constexpr int kSchedulerBytes = 1024;

// Stand for the number of groups in the kernels' template arguments.
inline constexpr uint32_t kGroups = 0xfffffffe;  // weights are their rows alone
inline constexpr uint32_t kGroupsWithScales =
    0xffffffff;  // scales follow the rows, as FP8 has them

constexpr uint32_t masked_shape_m(uint32_t groups, uint32_t max_rows) {
  return groups << kMaxRowsBits | max_rows;
}

// Thread blocks walk together through all tiles of a group, then of the next. Within a group they
// take 16 columns of tiles at a time, so that what is resident at once shares rows and weights in
// the second cache. Two neighbours share their rows where kMulticast is 2: the number of columns of
// tiles must then be even.
//
// Masked groups are mostly empty where a few tokens meet many experts, and to look at each in turn
// takes some 25 ns: which are in use is found by all threads of a block at once.
template <bool kMasked, uint32_t kBlockM, uint32_t kBlockN, uint32_t kNumGroups, uint32_t kNumSMs>
struct GroupScheduler {
  using IndexType = deep_gemm::sched::IndexType;

  uint32_t current_group_idx = 0;
  uint32_t current_shape_k;
  bool is_peer_cta_alive = true;

  __device__ GroupScheduler(uint32_t shape_m, uint32_t shape_n, uint32_t shape_k, int* layout)
      : current_shape_k(shape_k),
        layout_(layout),
        num_groups_(kMasked ? shape_m >> kMaxRowsBits : shape_m),
        max_rows_(kMasked ? shape_m & kMaxMaskedRows : 0),
        num_n_blocks_((shape_n + kBlockN - 1) / kBlockN),
        weight_rows_(shape_n + scale_rows(shape_n, shape_k)) {
    if constexpr (kMasked) find_groups_in_use();
    enter_group(0);
  }

  __device__ bool get_next_block(uint32_t& m_block_idx, uint32_t& n_block_idx) {
    const uint32_t next = ++iteration_ * kNumSMs + blockIdx.x;
    while (true) {
      if (current_group_idx >= num_groups_) return false;
      const uint32_t blocks = num_m_blocks_ * num_n_blocks_;
      if (next < first_block_ + blocks) break;
      first_block_ += blocks;
      enter_group(current_group_idx + 1);
    }
    constexpr uint32_t kColumns = 16;
    const uint32_t block = next - first_block_;
    const uint32_t first_column = block / (kColumns * num_m_blocks_) * kColumns;
    const uint32_t columns = min(kColumns, num_n_blocks_ - first_column);
    const uint32_t place = block - first_column * num_m_blocks_;
    m_block_idx = first_m_block_ + place / columns;
    n_block_idx = first_column + place % columns;
    return true;
  }

  // Of a tile's rows (three arguments) and of its weights (four): where they begin, as a row or as
  // a place among scales.
  template <bool kWithGroupOffset, IndexType kIndexType = IndexType::MN>
  __device__ uint32_t get_global_idx(uint32_t size, uint32_t block_size, uint32_t block) const {
    if constexpr (!kWithGroupOffset) return block * block_size;
    if constexpr (kIndexType == IndexType::MN) size = max_rows_;
    return current_group_idx * size + block * block_size;
  }
  template <bool kWithGroupOffset, IndexType kIndexType = IndexType::MN>
  __device__ uint32_t get_global_idx(uint32_t, uint32_t block_size, uint32_t block,
                                     uint32_t) const {
    uint32_t begin = 0;
    if constexpr (kWithGroupOffset && kIndexType == IndexType::MN) {
      begin = current_group_idx * weight_rows_;
    } else if constexpr (kWithGroupOffset && kIndexType == IndexType::SF_K) {
      begin = current_group_idx * (weight_rows_ * current_shape_k / sizeof(float));
    }
    return begin + block * block_size;
  }

  __device__ bool is_tma_multicast_valid(uint32_t) const { return true; }

  // Whether any row from this one of the tile on is in use.
  __device__ bool is_computation_valid(uint32_t m_block_idx, uint32_t m_offset) const {
    return m_block_idx * kBlockM + m_offset < end_row_;
  }

 private:
  // Rows of `shape_k` bytes that hold the scales.
  static __device__ uint32_t scale_rows(uint32_t shape_n, uint32_t shape_k) {
    if constexpr (kNumGroups == kGroups) return 0;
    const uint32_t bytes = (shape_n + 127) / 128 * ((shape_k + 127) / 128) * sizeof(float);
    return (bytes + shape_k - 1) / shape_k;
  }

  // By all threads of the block.
  __device__ void find_groups_in_use() {
    __shared__ uint32_t in_use[(kMaxGemmGroups + 1) / 32];
    for (uint32_t group = threadIdx.x; group < (num_groups_ + 31) / 32 * 32; group += blockDim.x) {
      const bool has_rows = group < num_groups_ && layout_[group] > 0;
      const uint32_t groups = __ballot_sync(0xffffffffU, has_rows);
      if (group % 32 == 0) in_use[group / 32] = groups;
    }
    __syncthreads();
    in_use_ = in_use;
  }

  // The first group in use from this one on; the number of groups: there is none.
  __device__ uint32_t group_in_use(uint32_t group) const {
    uint32_t from = 0xffffffffU << group % 32;
    for (uint32_t word = group / 32; word * 32 < num_groups_; ++word, from = 0xffffffffU) {
      const uint32_t groups = in_use_[word] & from;
      if (groups != 0) return word * 32 + __ffs(static_cast<int>(groups)) - 1;
    }
    return num_groups_;
  }

  // Of this group or, masked, of the first in use behind it.
  __device__ void enter_group(uint32_t group) {
    current_group_idx = kMasked ? group_in_use(group) : group;
    if (current_group_idx >= num_groups_) return;
    if constexpr (kMasked) {
      end_row_ = min(static_cast<uint32_t>(layout_[current_group_idx]), max_rows_);
      num_m_blocks_ = (end_row_ + kBlockM - 1) / kBlockM;
    } else {
      const auto begin = static_cast<uint32_t>(layout_[current_group_idx]);
      end_row_ = static_cast<uint32_t>(layout_[current_group_idx + 1]);
      first_m_block_ = begin / kBlockM;
      num_m_blocks_ = (end_row_ - begin + kBlockM - 1) / kBlockM;
    }
  }

  const int* layout_;
  const uint32_t* in_use_ = nullptr;  // masked: a bit for each group, in shared memory
  uint32_t num_groups_;
  uint32_t max_rows_;
  uint32_t num_n_blocks_;
  uint32_t weight_rows_;
  uint32_t iteration_ = 0xffffffff;
  uint32_t first_block_ = 0;    // of the current group among all tiles
  uint32_t first_m_block_ = 0;  // contiguous: of the group among all rows
  uint32_t num_m_blocks_ = 0;
  uint32_t end_row_ = 0;
};

}  // namespace wideep::kernels

namespace deep_gemm::sched {

// The layout by ends of groups ("psum") is our contiguous one.
#define WIDEEP_GROUP_SCHEDULER(type, is_masked, groups)                                            \
  template <uint32_t kBlockM, uint32_t kBlockN, uint32_t kMulticast, bool kOnA, uint32_t kNumSMs,  \
            bool kZero, uint32_t kAlign, uint32_t kSpan, uint32_t k1D, uint32_t kSplit, bool kPad, \
            bool kSkip>                                                                            \
  struct Scheduler<type, kBlockM, kBlockN, groups, kMulticast, kOnA, kNumSMs, kZero, kAlign,       \
                   kSpan, k1D, kSplit, kPad, kSkip>                                                \
      : wideep::kernels::GroupScheduler<is_masked, kBlockM, kBlockN, groups, kNumSMs> {            \
    using wideep::kernels::GroupScheduler<is_masked, kBlockM, kBlockN, groups,                     \
                                          kNumSMs>::GroupScheduler;                                \
  }
WIDEEP_GROUP_SCHEDULER(GemmType::MGroupedMasked, true, wideep::kernels::kGroups);
WIDEEP_GROUP_SCHEDULER(GemmType::MGroupedMasked, true, wideep::kernels::kGroupsWithScales);
WIDEEP_GROUP_SCHEDULER(GemmType::MGroupedContiguousWithPsumLayout, false, wideep::kernels::kGroups);
WIDEEP_GROUP_SCHEDULER(GemmType::MGroupedContiguousWithPsumLayout, false,
                       wideep::kernels::kGroupsWithScales);
#undef WIDEEP_GROUP_SCHEDULER

}  // namespace deep_gemm::sched
