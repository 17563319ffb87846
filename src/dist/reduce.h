// Reductions of several vectors into one, element by element, in the order of the vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace wideep::dist {

struct Sum {
  float operator()(float a, float b) const { return a + b; }
  // Wraps, as unsigned integers do.
  int64_t operator()(int64_t a, int64_t b) const {
    return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  }
};

struct Max {
  int64_t operator()(int64_t a, int64_t b) const { return std::max(a, b); }
};

// Reduces n elements of `count` vectors: input(k) is a const T* to vector k, and store(offset,
// values, length) takes the results of [offset, offset + length). The inputs' elements are read
// before the results that stand in their place are stored, so a store may overwrite them.
template <typename T, typename Combine, typename Input, typename Store>
void reduce(int count, int64_t n, Combine combine, const Input& input, const Store& store) {
  // The partial results stay in the first-level cache while the vectors stream through.
  constexpr int64_t kBlock = 8192 / sizeof(T);
  T block[kBlock];
  for (int64_t offset = 0; offset < n; offset += kBlock) {
    const int64_t length = std::min(kBlock, n - offset);
    std::memcpy(block, input(0) + offset, length * sizeof(T));
    for (int k = 1; k < count; ++k) {
      const T* values = input(k) + offset;
      for (int64_t i = 0; i < length; ++i) block[i] = combine(block[i], values[i]);
    }
    store(offset, static_cast<const T*>(block), length);
  }
}

}  // namespace wideep::dist
