#include "models/device_loader.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "base/arena.h"
#include "base/buffer.h"
#include "kernels/transfer.h"

namespace wideep::models {
namespace {

// Enough to keep the link busy, little enough to be quickly taken.
constexpr int64_t kBatchBytes = int64_t{128} << 20;

int64_t bytes_of(const DevicePiece& piece) {
  return Arena::padded(piece.num_bytes);
}

// Pinned memory of a batch of pieces, and its copy on the device.
struct Half {
  std::unique_ptr<kernels::Staging> host;
  Buffer device;
};

Result<Half> make_half(const Stream& stream, int64_t bytes) {
  Half half;
  ASSIGN_OR_RETURN(half.host, kernels::Staging::create(stream, bytes));
  ASSIGN_OR_RETURN(half.device, Buffer::allocate(bytes, kernels::space_of(stream)));
  return half;
}

Status load_batch(Stream& stream, WeightSource& source, std::span<const DevicePiece> pieces,
                  const Half& half) {
  const std::span<std::byte> memory = half.host->begin();
  std::vector<int64_t> offsets = {0};
  for (const DevicePiece& piece : pieces) offsets.push_back(offsets.back() + bytes_of(piece));
  std::vector<Status> done(pieces.size());
  stream.pool().parallel_for(static_cast<int>(std::ssize(pieces)), [&](int i) {
    done[i] = pieces[i].read(source, memory.subspan(offsets[i], pieces[i].num_bytes));
  });
  const auto failed = std::ranges::find_if_not(done, &Status::is_ok);
  if (failed != done.end()) return *failed;
  half.host->send(stream, offsets.back(), half.device.data());
  for (size_t i = 0; i < pieces.size(); ++i) {
    pieces[i].store(stream, half.device.data() + offsets[i]);
  }
  return stream.status();
}

}  // namespace

Status load_pieces(Stream& stream, WeightSource& source, std::span<const DevicePiece> pieces) {
  int64_t batch_bytes = kBatchBytes;
  for (const DevicePiece& piece : pieces) batch_bytes = std::max(batch_bytes, bytes_of(piece));
  std::array<Half, 2> halves;
  for (Half& half : halves) {
    ASSIGN_OR_RETURN(half, make_half(stream, batch_bytes));
  }
  int turn = 0;
  while (!pieces.empty()) {
    size_t count = 0;
    for (int64_t bytes = 0; count < pieces.size(); ++count) {
      bytes += bytes_of(pieces[count]);
      if (bytes > batch_bytes) break;
    }
    const Status status = load_batch(stream, source, pieces.first(count), halves[turn]);
    if (!status.is_ok()) {
      kernels::wait(stream);  // the halves are still being read
      return status;
    }
    pieces = pieces.subspan(count);
    turn = 1 - turn;
  }
  kernels::wait(stream);
  return stream.status();
}

}  // namespace wideep::models
