// Arena: scratch that a chain of ops takes from one planned piece of memory and gives back at the
// end of a scope, so that nothing is allocated while a model runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "base/tensor.h"

namespace wideep {

// Hands out pieces aligned to kAlignment, one behind the other. More than the memory holds is our
// own mistake in planning: CHECKed. Owned by one thread.
class Arena {
 public:
  static constexpr int64_t kAlignment = 64;

  // The memory, aligned, is the caller's and outlives the arena.
  explicit Arena(std::span<std::byte> memory) : memory_(memory) {}

  // Bytes that a piece takes, for plans.
  static constexpr int64_t padded(int64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  static constexpr int64_t matrix_bytes(int64_t rows, int64_t columns, DType dtype = DType::kF32) {
    return padded(rows * columns * dtype_size(dtype));
  }

  template <typename T>
  std::span<T> take(int64_t count) {
    const int64_t bytes = padded(count * static_cast<int64_t>(sizeof(T)));
    CHECK(used_ + bytes <= std::ssize(memory_));
    T* data = reinterpret_cast<T*>(memory_.data() + used_);
    used_ += bytes;
    return {data, static_cast<size_t>(count)};
  }
  MatrixView matrix(int64_t rows, int64_t columns, DType dtype = DType::kF32) {
    std::byte* data = take<std::byte>(rows * columns * dtype_size(dtype)).data();
    return {data, dtype, rows, columns, columns};
  }

  // What is taken after a scope began is given back when it ends.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(&arena), used_(arena.used_) {}
    ~Scope() { arena_->used_ = used_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena* arena_;
    int64_t used_;
  };

 private:
  std::span<std::byte> memory_;
  int64_t used_ = 0;
};

}  // namespace wideep
