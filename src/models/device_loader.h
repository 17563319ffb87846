// The way of weights to a GPU: read by many threads into pinned memory, copied, and converted
// there.
#pragma once

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
  int64_t num_floats = 0;
  // Fills `out` [num_floats]; thread-safe.
  std::function<Status(WeightSource& source, std::span<float> out)> read;
  // Ops on the stream that put the floats, which are on the device now, where they belong.
  std::function<void(Stream& stream, const float* uploaded)> store;
};

// Reads and stores all pieces, on the stream's pool; reading goes on while the pieces before are
// copied. Waits for the stream. The first error in the order of the pieces.
Status load_pieces(Stream& stream, WeightSource& source, std::span<const DevicePiece> pieces);

}  // namespace wideep::models
