// Large zeroed memory straight from the system: weights, activations, the KV cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace wideep {

// Pages cost memory when they are first touched, so a buffer may be planned larger than a run will
// use. Aligned to a page; huge pages are asked for where the system grants them. Move-only.
class Buffer {
 public:
  Buffer() = default;
  // kUnavailable, naming the size, where the system refuses. 0 bytes: an empty buffer.
  static Result<Buffer> allocate(int64_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

  // The first `count` elements from byte `offset` on, CHECKed against the size.
  template <typename T>
  std::span<T> span(int64_t count, int64_t offset = 0) const {
    CHECK(offset % alignof(T) == 0 && count >= 0);
    CHECK(offset + count * static_cast<int64_t>(sizeof(T)) <= size_);
    return {reinterpret_cast<T*>(data_ + offset), static_cast<size_t>(count)};
  }

 private:
  Buffer(std::byte* data, int64_t size) : data_(data), size_(size) {}

  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace wideep
