// Moving bytes as they are, in order with the ops of a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/buffer.h"
#include "base/status.h"
#include "base/stream.h"
#include "base/tensor.h"

namespace wideep::kernels {

// Between memory of the stream's device, or, on CUDA, from or to pinned memory of the host.
void copy_bytes(Stream& stream, std::span<const std::byte> from, std::byte* to);
void zero_bytes(Stream& stream, std::span<std::byte> bytes);

// What a copy moves, to memory that does not overlap with it.
struct CopyPiece {
  std::span<const std::byte> from;
  std::byte* to = nullptr;
};
// Two copies within the memory of the stream's device, on CUDA by one kernel where their addresses
// and sizes are multiples of 16 bytes: each call of the driver's costs 5 us beside its bytes.
void copy_pair(Stream& stream, const CopyPiece& first, const CopyPiece& second);

// Rows and columns of one shape and type.
void copy_matrix(Stream& stream, ConstMatrixView from, MatrixView to);

// To any memory of the host; waits for the stream.
void fetch_bytes(Stream& stream, std::span<const std::byte> from, std::byte* to);

// Returns when the stream has done everything; what failed is the stream's status then.
void wait(Stream& stream);

// Where a stream's buffers are.
inline MemorySpace space_of(const Stream& stream) {
  return stream.is_cuda() ? MemorySpace::kDevice : MemorySpace::kHost;
}

// A point of a stream that the host can wait for.
class Marker {
 public:
  static Result<std::unique_ptr<Marker>> create(const Stream& stream);
  virtual ~Marker() = default;

  virtual void set(Stream& stream) = 0;
  // Until the stream has come to where this was set last; at once where it never was.
  virtual void wait() = 0;

 protected:
  Marker() = default;
};

// Memory of the host from which a stream's device is given something anew every time: fill what
// begin() returns, then send it.
class Staging {
 public:
  static Result<std::unique_ptr<Staging>> create(const Stream& stream, int64_t bytes);
  virtual ~Staging() = default;

  // Waits until what was sent before has left.
  virtual std::span<std::byte> begin() = 0;
  // The first bytes, to memory of the device.
  virtual void send(Stream& stream, int64_t bytes, std::byte* to) = 0;

 protected:
  Staging() = default;
};

}  // namespace wideep::kernels
