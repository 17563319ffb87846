// Rows a piece at a time, spread over a warp: from a batch, to the other ranks as lines, from lines
// that have arrived, to the output.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_lines.cuh"
#include "alltoall/quantize.cuh"

namespace wideep::alltoall::device {

inline constexpr int kVectorsOfLane = 7;
inline constexpr int kVectorsOfPiece = 32 * kVectorsOfLane;
inline constexpr int kLinesOfPiece = kVectorsOfPiece / kVectorsOfLine;
static_assert(kLinesOfPiece <= 32);
// That a warp's lanes have vectors of at a time.
inline constexpr int kLinesAtOnce = 32 / kVectorsOfLine;

// Of the piece that begins at vector `first` of a row, lane l has the vectors first + l + 32 i, and
// what goes with the l-th of its lines: a scale.
struct Piece {
  uint4 data[kVectorsOfLane];
  float scale = 0;
};

__device__ inline int vector_of_piece(int first, int i) {
  return first + 32 * i + lane_id();
}
// This lane's line of the row; `lines` or more: none.
__device__ inline int line_of_piece(int first, int lines) {
  return lane_id() < kLinesOfPiece ? first / kVectorsOfLine + lane_id() : lines;
}
// From what lanes hold for line i * kLinesAtOnce + lane / kVectorsOfLine, the value of the lane
// whose line it is: `mine` keeps it on that lane.
template <typename T>
__device__ inline void gather_by_line(T value, int lane_of_line, int i, T& mine) {
  const int from = lane_id() % kLinesAtOnce * kVectorsOfLine + lane_of_line;
  const T its = __shfl_sync(kFullWarp, value, from);
  if (lane_id() / kLinesAtOnce == i) mine = its;
}

// Of a token's row as it travels: quantised, or as it is with the scales that came with it.
template <Payload kPayload>
__device__ inline Piece load_piece(const DispatchArgs& a, int token, int first) {
  const std::byte* const from = a.rows + token * a.row_stride;
  const auto vectors = static_cast<int>(a.row_bytes / kVectorBytes);
  Piece piece;
  if constexpr (kPayload == Payload::kQuantize) {
    constexpr int kAtOnce = 4;
#pragma unroll
    for (int begin = 0; begin < kVectorsOfLane; begin += kAtOnce) {
      uint4 wide[kAtOnce][2];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int v = vector_of_piece(first, begin + i);
        wide[i][0] = wide[i][1] = {0, 0, 0, 0};
        if (begin + i < kVectorsOfLane && v < vectors) {
          wide[i][0] = ptx::load_input(from + int64_t{2 * kVectorBytes} * v);
          wide[i][1] = ptx::load_input(from + int64_t{2 * kVectorBytes} * v + kVectorBytes);
        }
      }
#pragma unroll
      for (int i = begin; i < begin + kAtOnce && i < kVectorsOfLane; ++i) {
        float scale;
        piece.data[i] = quantize16(wide[i - begin][0], wide[i - begin][1], scale);
        gather_by_line(scale, 0, i, piece.scale);
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < kVectorsOfLane; ++i) {
      const int v = vector_of_piece(first, i);
      piece.data[i] = {0, 0, 0, 0};
      if (v < vectors) piece.data[i] = ptx::load_input(from + int64_t{kVectorBytes} * v);
    }
    const int line = line_of_piece(first, a.scale_columns);
    if (a.scales != nullptr && line < a.scale_columns) {
      piece.scale = a.scales[static_cast<int64_t>(token) * a.scale_columns + line];
    }
  }
  return piece;
}

// To all places, each a row of lines; `piece` is not a piece of a row afterwards.
__device__ inline void send_piece(const DispatchArgs& a, const Places& places, int first,
                                  uint32_t epoch, Piece& piece) {
  uint32_t word = 0;  // that the epoch displaces in this lane's line
#pragma unroll
  for (int i = 0; i < kVectorsOfLane; ++i) {
    gather_by_line(piece.data[i].w, kVectorsOfLine - 1, i, word);
    if (ends_line(lane_id())) piece.data[i].w = epoch;
  }
  const int lines = lines_of_row(a.row_bytes);
  const int line = line_of_piece(first, lines);
  for_each_place(places, [&](std::byte* row) {
    const Lines to = {row, lines};
#pragma unroll
    for (int i = 0; i < kVectorsOfLane; ++i) {
      const int v = vector_of_piece(first, i);
      const uint4& d = piece.data[i];
      if (v < to.vectors()) ptx::store_relaxed(to.vector(v), {{d.x, d.y, d.z}, d.w});
    }
    if (line >= lines) return;
    ptx::store_relaxed(to.word(line), cell_of(epoch, word));
    if (a.scale_columns > 0) {
      ptx::store_relaxed(to.scale(line), cell_of(epoch, __float_as_uint(piece.scale)));
    }
  });
}

// Waits for a piece. False where a rank gave up.
__device__ inline bool receive_piece(const DispatchArgs& a, const Wait& wait, const Lines& from,
                                     int first, Piece& piece) {
  const int line = line_of_piece(first, from.lines);
  const bool has_line = line < from.lines;
  const bool has_scale = has_line && a.scale_columns > 0;
  uint64_t word = 0;
  uint64_t scale = 0;
  const bool ok = wait_by_warp(a.group, wait, [&] {
#pragma unroll
    for (int i = 0; i < kVectorsOfLane; ++i) {
      const int v = vector_of_piece(first, i);
      if (v >= from.vectors()) continue;
      const Packet p = ptx::load_relaxed(from.vector(v));
      piece.data[i] = {p.word[0], p.word[1], p.word[2], p.epoch};
    }
    if (has_line) word = ptx::load_relaxed(from.word(line));
    if (has_scale) scale = ptx::load_relaxed(from.scale(line));
    bool come =
        (!has_line || word >> 32 == wait.epoch) && (!has_scale || scale >> 32 == wait.epoch);
#pragma unroll
    for (int i = 0; i < kVectorsOfLane; ++i) {
      const int v = vector_of_piece(first, i);
      if (ends_line(v) && v < from.vectors()) come = come && piece.data[i].w == wait.epoch;
    }
    return __all_sync(kFullWarp, come) != 0;
  });
#pragma unroll
  for (int i = 0; i < kVectorsOfLane; ++i) {
    const auto of_line = static_cast<uint32_t>(
        __shfl_sync(kFullWarp, word, kLinesAtOnce * i + lane_id() / kVectorsOfLine));
    if (ends_line(lane_id())) piece.data[i].w = of_line;
  }
  piece.scale = __uint_as_float(static_cast<uint32_t>(scale));
  return ok;
}

// To the rows of the output that the lanes of `lanes` name.
__device__ inline void store_piece(const DispatchArgs& a, uint32_t lanes, int row, int first,
                                   const Piece& piece) {
  const auto vectors = static_cast<int>(a.row_bytes / kVectorBytes);
  const int line = line_of_piece(first, a.scale_columns);
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    const int64_t to = __shfl_sync(kFullWarp, row, __ffs(static_cast<int>(left)) - 1);
    std::byte* const bytes = a.out_rows + to * a.row_bytes;
#pragma unroll
    for (int i = 0; i < kVectorsOfLane; ++i) {
      const int v = vector_of_piece(first, i);
      if (v < vectors) ptx::stream_row(bytes + int64_t{kVectorBytes} * v, piece.data[i]);
    }
    if (line < a.scale_columns) a.out_scales[to * a.out_scale_stride + line] = piece.scale;
  }
}

}  // namespace wideep::alltoall::device
