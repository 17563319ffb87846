// The receiving half of a dispatch: the table of where each source's rows begin in each slot, and a
// received row's header turned into places.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"

namespace wideep::alltoall::device {

// Shared memory of a receiving block.
struct ReceiveTable {
  uint32_t* first;  // [num_ranks, slots_per_rank]: where the source's rows begin in the output
  uint32_t* rows;   // [num_ranks] of each source
  uint32_t* sums;   // [32] of the warps
  bool writes;      // of the receiving blocks, the one that writes counts
};

// The sum of `value` over the threads before this one; `total` over all of the block.
__device__ inline uint32_t sum_before(const ReceiveTable& table, uint32_t value, uint32_t& total) {
  uint32_t sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(kFullWarp, sum, step);
    if (lane_id() >= step) sum += other;
  }
  if (lane_id() == 31) table.sums[warp_id()] = sum;
  __syncthreads();
  const uint32_t of_warp =
      lane_id() < static_cast<int>(blockDim.x / 32) ? table.sums[lane_id()] : 0;
  total = __reduce_add_sync(kFullWarp, of_warp);
  const uint32_t before = __reduce_add_sync(kFullWarp, lane_id() < warp_id() ? of_warp : 0);
  __syncthreads();
  return before + sum - value;
}

// Counts in `first` become first rows; a slot's rows are in the order of their sources. By all
// threads; false for one that found the output full.
__device__ inline bool place_slots(const DispatchArgs& a, const ReceiveTable& table,
                                   uint32_t epoch) {
  const GroupView& g = a.group;
  const int slots = g.shape.slots_per_rank();
  const bool masked = a.layout == DeviceLayout::kBySlotMasked;
  int64_t begin = 0;  // of the next slots
  bool ok = true;
#pragma unroll 1
  for (int base = 0; base < slots; base += blockDim.x) {
    const int slot = base + static_cast<int>(threadIdx.x);
    uint32_t rows = 0;
#pragma unroll 2
    for (int s = 0; s < g.shape.num_ranks && slot < slots; ++s) {
      rows += table.first[s * slots + slot];
    }
    const uint32_t padded =
        (rows + static_cast<uint32_t>(a.alignment) - 1) / a.alignment * a.alignment;
    uint32_t total = 0;
    const uint32_t before = sum_before(table, padded, total);
    const int64_t own = masked ? slot * a.capacity : begin + before;
    begin += total;
    if (slot >= slots) continue;
    if (masked && rows > a.capacity) {
      give_up(g, {ErrorKind::kOverflow, Phase::kDispatch, Awaited::kCounts, g.rank, epoch, 0, slot,
                  static_cast<uint64_t>(a.capacity), rows});
      ok = false;
    }
    auto next = static_cast<uint32_t>(own);
#pragma unroll 2
    for (int s = 0; s < g.shape.num_ranks; ++s) {
      const uint32_t count = table.first[s * slots + slot];
      table.first[s * slots + slot] = next;
      next += count;
    }
    if (table.writes && a.slot_counts != nullptr) a.slot_counts[slot] = static_cast<int32_t>(rows);
    if (table.writes && a.slot_offsets != nullptr) {
      a.slot_offsets[slot] = static_cast<int32_t>(own);
      if (slot == slots - 1) {
        a.slot_offsets[slots] = static_cast<int32_t>(masked ? slots * a.capacity : own + padded);
      }
    }
  }
  if (a.layout == DeviceLayout::kBySlot && begin > a.capacity && threadIdx.x == 0) {
    give_up(g, {ErrorKind::kOverflow, Phase::kDispatch, Awaited::kCounts, g.rank, epoch, 0, -1,
                static_cast<uint64_t>(a.capacity), static_cast<uint64_t>(begin)});
    ok = false;
  }
  return ok;
}

// Waits for the counts of all ranks and fills the table, by all threads; false where a rank gave
// up.
__device__ inline bool fill_table(const DispatchArgs& a, uint32_t epoch,
                                  const ReceiveTable& table) {
  const GroupView& g = a.group;
  const int slots = g.shape.slots_per_rank();
  const int num_ranks = g.shape.num_ranks;
  bool ok = true;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < num_ranks * (slots + 1); i += blockDim.x) {
    const int source = i / (slots + 1);
    const int slot = i % (slots + 1);
    const bool is_total = slot == slots;
    int count = 0;
    if (is_active(source)) {
      count = wait_cell(g, source, epoch,
                        is_total ? g.shape.num_slots + g.rank : g.rank * slots + slot);
      ok = ok && count >= 0;
    }
    if (is_total) {
      table.rows[source] = static_cast<uint32_t>(max(count, 0));
      if (table.writes) {
        g.source_rows[source] = count;
        if (a.source_counts != nullptr) a.source_counts[source] = count;
      }
    } else {
      table.first[source * slots + slot] = static_cast<uint32_t>(max(count, 0));
    }
  }
  if (__syncthreads_and(ok ? 1 : 0) == 0) return false;
  // By source, rows have their places, and only the counts are wanted.
  ok = (a.layout == DeviceLayout::kBySource && !table.writes) || place_slots(a, table, epoch);
  return __syncthreads_and(ok ? 1 : 0) != 0;
}

// The counts of all ranks for all slots, for whoever balances, by the blocks of a team.
__device__ inline void copy_all_counts(const DispatchArgs& a, uint32_t epoch, const Team& team) {
  const GroupView& g = a.group;
  if (a.all_counts == nullptr) return;
  const auto threads = static_cast<int>(blockDim.x);
#pragma unroll 1
  for (int i = team.block * threads + static_cast<int>(threadIdx.x);
       i < g.shape.num_ranks * g.shape.num_slots; i += team.blocks * threads) {
    const int source = i / g.shape.num_slots;
    a.all_counts[i] = is_active(source) ? wait_cell(g, source, epoch, i % g.shape.num_slots) : 0;
  }
}

// A received row, spread over the lanes of a warp: lane i has its i-th copy.
struct Arrival {
  int token = 0;
  int copies = 0;
  int partial = 0;
  Copy copy = {-1, 0, 0, -1};  // this lane's; slot -1: none
};

__device__ inline void read_head(const Packet& head, Arrival& arrival) {
  arrival.token = static_cast<int>(head.word[0]);
  arrival.copies = static_cast<int>(head.word[1] & 0xffU);
  arrival.partial = static_cast<int>(head.word[1] >> 8);
}

// The packet of a copy; its row is the table's first row of the slot plus its index there.
__device__ inline Copy read_copy(const DispatchArgs& a, const ReceiveTable& table, int source,
                                 const Packet& entry) {
  const GroupView& g = a.group;
  Copy copy;
  copy.slot = static_cast<int>(entry.word[0] & 0xffffU);
  copy.k = static_cast<int>(entry.word[0] >> 16);
  copy.weight = __uint_as_float(entry.word[2]);
  copy.row =
      static_cast<int>(table.first[source * g.shape.slots_per_rank() + copy.slot] + entry.word[1]);
  return copy;
}

// Keeps what combine needs of a row that has arrived by slot. By a whole warp.
__device__ inline void keep_row(const GroupView& g, int64_t landed, const Arrival& arrival) {
  if (lane_id() < arrival.copies) {
    g.copies[landed * g.shape.top_k + lane_id()] = arrival.copy;
  }
  if (lane_id() == 0) g.received[landed] = {arrival.token, arrival.copies, arrival.partial};
}

// The same by source: one row, summed by whoever computes it. By one thread.
__device__ inline void keep_row_of_source(const GroupView& g, int64_t landed, int token,
                                          int partial) {
  g.copies[landed * g.shape.top_k] = {static_cast<int>(landed), 1.0F, 0, -1};
  g.received[landed] = {token, 1, partial};
}

__device__ inline Wait wait_of_row(int source, uint32_t epoch, int row) {
  return {Phase::kDispatch, Awaited::kRow, source, epoch, row, epoch};
}

// The copies of a row whose head has arrived, by a whole warp. False where a rank gave up.
__device__ inline bool receive_copies(const DispatchArgs& a, uint32_t epoch,
                                      const ReceiveTable& table, int source, int row,
                                      Arrival& arrival) {
  const GroupView& g = a.group;
  bool ok = true;
  arrival.copy = {-1, 0, 0, -1};
  if (lane_id() < arrival.copies) {
    Packet packet;
    ok = wait_packet<false>(g, wait_of_row(source, epoch, row),
                            header_of(g, g.self, source, epoch, row) + 1 + lane_id(), packet);
    if (ok) arrival.copy = read_copy(a, table, source, packet);
  }
  return __all_sync(kFullWarp, ok);
}

// The header of a row of a small batch, spread over the lanes of a warp as it lies.
__device__ inline Arrival read_small_header(const DispatchArgs& a, const ReceiveTable& table,
                                            int source, Packet packet) {
  Packet head = packet;
  head.word[0] = __shfl_sync(kFullWarp, packet.word[0], 0);
  head.word[1] = __shfl_sync(kFullWarp, packet.word[1], 0);
  Arrival arrival;
  read_head(head, arrival);
#pragma unroll
  for (uint32_t& word : packet.word) word = __shfl_down_sync(kFullWarp, word, 1);
  if (lane_id() < arrival.copies) arrival.copy = read_copy(a, table, source, packet);
  return arrival;
}

// Takes a row by source whose header has come, by one thread: which slots of this rank it goes to.
// False: it has not come, or not all of it.
__device__ inline bool receive_row_of_source(const DispatchArgs& a, uint32_t epoch, int source,
                                             int row, uint64_t& seen) {
  constexpr int kAtOnce = 4;
  const GroupView& g = a.group;
  const Packet* header = header_of(g, g.self, source, epoch, row);
  const Packet head = ptx::load_acquire(header);
  seen = head.epoch;
  if (head.epoch != epoch) return false;
  Arrival arrival;
  read_head(head, arrival);
  const int64_t landed = static_cast<int64_t>(source) * g.shape.max_tokens + row;
  const bool whole = a.top_k % kAtOnce == 0;
  for (int first = 0; first < a.top_k; first += kAtOnce) {
    Packet packets[kAtOnce];
    int slots[kAtOnce];
    float weights[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      packets[i] = {{}, epoch};
      if (first + i < arrival.copies) packets[i] = ptx::load_relaxed(header + 1 + first + i);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      seen = packets[i].epoch;
      if (seen != epoch) return false;
      slots[i] = first + i < arrival.copies ? static_cast<int>(packets[i].word[0] & 0xffffU) : -1;
      weights[i] = __uint_as_float(packets[i].word[2]);
    }
    const int64_t to = landed * a.top_k + first;
    if (whole) {
      *reinterpret_cast<int4*>(a.row_slots + to) = {slots[0], slots[1], slots[2], slots[3]};
      *reinterpret_cast<float4*>(a.row_weights + to) = {weights[0], weights[1], weights[2],
                                                        weights[3]};
      continue;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= a.top_k) break;
      a.row_slots[to + i] = slots[i];
      a.row_weights[to + i] = weights[i];
    }
  }
  keep_row_of_source(g, landed, arrival.token, arrival.partial);
  return true;
}

// Rows of other ranks or of all, dealt to the threads or warps of all receiving blocks like cards.
struct Arrivals {
  const GroupView& g;
  const ReceiveTable& table;
  int sources;  // whose rows they are: the ranks behind this one in a circle, itself last
  int worker;
  int workers;
  int longest = 0;  // rows from one source

  __device__ Arrivals(const GroupView& group, const ReceiveTable& receive_table, int num_sources,
                      int worker_of, int worker_count)
      : g(group),
        table(receive_table),
        sources(num_sources),
        worker(worker_of),
        workers(worker_count) {
    for (int s = 0; s < g.shape.num_ranks; ++s) {
      longest = max(longest, static_cast<int>(table.rows[s]));
    }
  }
  // Whether this worker has an i-th row or later ones.
  __device__ bool has(int i) const { return worker + i * workers < longest * sources; }
  // Its i-th row. False: none.
  __device__ bool find(int i, int& source, int& row) const {
    const int item = worker + i * workers;
    row = item / sources;
    source = (g.rank + 1 + (item + row) % sources) % g.shape.num_ranks;
    return row < static_cast<int>(table.rows[source]);
  }
};

}  // namespace wideep::alltoall::device
