// Large zeroed memory straight from the system: weights, activations, the KV cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace wideep {

enum class MemorySpace {
  kHost,
  kPinned,  // of the host, locked to its place, so that a device reads and writes it
  kDevice,  // of the current CUDA device
};

// Host pages cost memory when they are first touched, so a buffer may be planned larger than a run
// will use. Aligned to a page; huge pages are asked for where the system grants them. Memory of the
// other spaces is taken at once. Move-only.
class Buffer {
 public:
  Buffer() = default;
  // kUnavailable, naming the size, where the system refuses, or where this build has no CUDA and
  // the space needs it. 0 bytes: an empty buffer.
  static Result<Buffer> allocate(int64_t bytes, MemorySpace space = MemorySpace::kHost);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  MemorySpace space() const { return space_; }

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  // The first `count` elements from byte `offset` on, CHECKed against the size.
  template <typename T>
  std::span<T> span(int64_t count, int64_t offset = 0) const {
    CHECK(offset % alignof(T) == 0 && count >= 0);
    CHECK(offset + count * static_cast<int64_t>(sizeof(T)) <= size_);
    return {reinterpret_cast<T*>(data_ + offset), static_cast<size_t>(count)};
  }

 private:
  Buffer(std::byte* data, int64_t size, MemorySpace space)
      : data_(data), size_(size), space_(space) {}

  std::byte* data_ = nullptr;
  int64_t size_ = 0;
  MemorySpace space_ = MemorySpace::kHost;
};

}  // namespace wideep
