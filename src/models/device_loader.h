// The way of weights to a GPU: read by many threads into pinned memory, copied, and converted
// there where they are not stored as they are used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/stream.h"
#include "models/weight_source.h"

namespace wideep::models {

// A part that is read and stored by itself.
struct DevicePiece {
  int64_t num_bytes = 0;
  // Fills `out` [num_bytes]; thread-safe.
  std::function<Status(WeightSource& source, std::span<std::byte> out)> read;
  // Ops on the stream that put the bytes, which are on the device now, where they belong.
  std::function<void(Stream& stream, const std::byte* uploaded)> store;
};

// Reads and stores all pieces, on the stream's pool; reading goes on while the pieces before are
// copied. Waits for the stream. The first error in the order of the pieces.
Status load_pieces(Stream& stream, WeightSource& source, std::span<const DevicePiece> pieces);

}  // namespace wideep::models
