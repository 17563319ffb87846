// Rows as lines of 128 bytes, each with the epoch in its last word. Eight lanes
// write a line by one instruction and eight lanes read it by one, so that who sees the epoch sees
// the line. PTX promises that of 16 bytes only. That lines of 128 arrive whole is what NCCL's
// protocol LL128 rests on too; docs/performance.md says how it was tried.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"

namespace wideep::alltoall::device {

// A row in memory: its lines, then for each the word that its epoch displaced, as a cell of
// epoch << 32 | word, then its scales as cells.
struct Lines {
  std::byte* row;
  int lines;

  __device__ int vectors() const { return lines * kVectorsOfLine; }
  __device__ Packet* vector(int v) const { return reinterpret_cast<Packet*>(row) + v; }
  __device__ uint64_t* word(int line) const {
    return reinterpret_cast<uint64_t*>(vector(vectors())) + line;
  }
  __device__ uint64_t* scale(int line) const { return word(lines + line); }
};

__device__ inline bool ends_line(int v) {
  return v % kVectorsOfLine == kVectorsOfLine - 1;
}
__device__ inline uint64_t cell_of(uint32_t epoch, uint32_t word) {
  return static_cast<uint64_t>(epoch) << 32 | word;
}

// Sends vector v; by the eight lanes of a line together.
__device__ inline void send_vector(const Lines& to, int v, const uint4& data, uint32_t epoch) {
  const bool last = ends_line(v);
  ptx::store_relaxed(to.vector(v), {{data.x, data.y, data.z}, last ? epoch : data.w});
  if (last) ptx::store_relaxed(to.word(v / kVectorsOfLine), cell_of(epoch, data.w));
}

// A vector as it was found.
struct Landed {
  Packet vector;
  uint64_t word;  // of the line's last lane
};

// By the eight lanes of a line together.
__device__ inline Landed load_vector(const Lines& from, int v) {
  Landed landed;
  landed.vector = ptx::load_relaxed(from.vector(v));
  if (ends_line(v)) landed.word = ptx::load_relaxed(from.word(v / kVectorsOfLine));
  return landed;
}

// The vector; good where has_come() is true of the line's last lane.
__device__ inline uint4 vector_of(const Landed& landed, int v) {
  const Packet& p = landed.vector;
  return {p.word[0], p.word[1], p.word[2],
          ends_line(v) ? static_cast<uint32_t>(landed.word) : p.epoch};
}

// False on the last lane of a line that has not come yet.
__device__ inline bool has_come(const Landed& landed, int v, uint32_t epoch, uint64_t& seen) {
  if (!ends_line(v)) return true;
  const auto of_word = static_cast<uint32_t>(landed.word >> 32);
  if (landed.vector.epoch == epoch && of_word == epoch) return true;
  seen = landed.vector.epoch != epoch ? landed.vector.epoch : of_word;
  return false;
}

// Parts of rows, dealt to blocks like cards: a thread has one vector of a part at most.
struct Deal {
  int row;  // the block's current part
  int part;
  int row_step;
  int part_step;
  int carry;  // rows from the last part of one to the first of the next
  int parts;  // of a row

  __device__ void next() {
    row += row_step;
    part += part_step;
    if (part < parts) return;
    part -= parts;
    row += carry;
  }
};

__device__ inline Deal deal_parts(int block, int blocks, int parts) {
  return {block / parts, block % parts, blocks / parts, blocks % parts, 1, parts};
}
__device__ inline Deal deal_rows(int block, int blocks, int parts) {
  return {block, 0, 0, 1, blocks, parts};
}

// This thread's vector of a part; `vectors` of the row, whole lines: none.
__device__ inline int vector_of_part(const RowParts& parts, int part, int vectors) {
  const int thread = static_cast<int>(threadIdx.x);
  return thread < parts.vectors ? min(part * parts.vectors + thread, vectors) : vectors;
}

}  // namespace wideep::alltoall::device
