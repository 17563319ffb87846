// Dividing something among parts: ranks, chunks.
#pragma once

#include <cstdint>

#include "base/check.h"

namespace wideep {

// A part [begin, end) of something that is shared.
struct Share {
  int begin = 0;
  int end = 0;

  int size() const { return end - begin; }
  bool contains(int i) const { return i >= begin && i < end; }
};

// The share of `total` of one of `parts` parts. Even; where it does not divide, sizes differ by
// one.
inline Share share_of(int total, int parts, int part) {
  CHECK(parts >= 1 && part >= 0 && part < parts);
  return {static_cast<int>(int64_t{total} * part / parts),
          static_cast<int>(int64_t{total} * (part + 1) / parts)};
}

}  // namespace wideep
