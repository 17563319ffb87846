// Fills the buffer of a MatrixRequest from anything that can give strips of a stored row-major
// matrix. Shared by the checkpoint and the dummy weights, so that both slice alike.
//
// A source of strips has, for T float and uint16_t (bf16):
//   void strip(int64_t row, int64_t begin, int64_t end, T* to) const;
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "models/matrix_request.h"

namespace wideep::models {

// Is the request's part inside a tensor of this shape? `place` opens the message.
inline Status check_request(const MatrixRequest& request, std::span<const int64_t> shape,
                            std::string_view place) {
  const size_t dimensions = request.expert >= 0 ? 3 : 2;
  if (shape.size() != dimensions) {
    return Status::invalid_input(fmt::format("{}: {}: has {} dimensions, must have {}", place,
                                             request.name, shape.size(), dimensions));
  }
  if (request.expert >= 0 && request.expert >= shape[0]) {
    return Status::invalid_input(
        fmt::format("{}: {}: expert {} of {}", place, request.name, request.expert, shape[0]));
  }
  int64_t rows = shape[dimensions - 2];
  int64_t columns = shape[dimensions - 1];
  if (request.transposed) std::swap(rows, columns);
  const auto is_inside = [](int64_t begin, int64_t end, int64_t size) {
    return 0 <= begin && begin <= end && end <= size;
  };
  if (is_inside(request.row_begin, request.row_end, rows) &&
      is_inside(request.column_begin, request.column_end, columns)) {
    return Status::ok();
  }
  return Status::invalid_input(fmt::format(
      "{}: {}: rows [{}, {}) x columns [{}, {}) are not inside its {} x {}", place, request.name,
      request.row_begin, request.row_end, request.column_begin, request.column_end, rows, columns));
}

inline Status check_request(const VectorRequest& request, std::span<const int64_t> shape,
                            std::string_view place) {
  if (shape.size() != 1) {
    return Status::invalid_input(
        fmt::format("{}: {}: has {} dimensions, must have 1", place, request.name, shape.size()));
  }
  if (0 <= request.begin && request.begin <= request.end && request.end <= shape[0]) {
    return Status::ok();
  }
  return Status::invalid_input(fmt::format("{}: {}: elements [{}, {}) are not inside its {}", place,
                                           request.name, request.begin, request.end, shape[0]));
}

// The transpose in tiles: a tile is read along the stored rows and written along the wanted ones,
// so neither side strides through memory. A tile of floats is half of a first-level cache.
template <typename Strips, typename T>
void copy_transposed(const Strips& strips, const MatrixRequest& request, T* out) {
  constexpr int64_t kTile = 64;
  std::array<T, kTile * kTile> tile;
  const int64_t columns = request.columns();
  for (int64_t column = request.column_begin; column < request.column_end; column += kTile) {
    const int64_t width = std::min(kTile, request.column_end - column);
    for (int64_t row = request.row_begin; row < request.row_end; row += kTile) {
      const int64_t height = std::min(kTile, request.row_end - row);
      for (int64_t c = 0; c < width; ++c) {
        strips.strip(column + c, row, row + height, tile.data() + c * kTile);
      }
      T* to = out + (row - request.row_begin) * columns + (column - request.column_begin);
      for (int64_t r = 0; r < height; ++r, to += columns) {
        for (int64_t c = 0; c < width; ++c) to[c] = tile[static_cast<size_t>(c * kTile + r)];
      }
    }
  }
}

// out: [request.rows(), request.columns()], row-major.
template <typename Strips, typename T>
void copy_slice(const Strips& strips, const MatrixRequest& request, T* out) {
  if (request.transposed) return copy_transposed(strips, request, out);
  for (int64_t row = request.row_begin; row < request.row_end; ++row, out += request.columns()) {
    strips.strip(row, request.column_begin, request.column_end, out);
  }
}

}  // namespace wideep::models
