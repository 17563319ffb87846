// Experts drawn one by one from a load, in constant time each: Walker's alias method (1977), the
// table built as Vose does (1991).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"

namespace wideep::eplb {

class AliasTable {
 public:
  // tokens: [num_experts] load, not all zero. O(num_experts).
  explicit AliasTable(std::span<const int64_t> tokens);

  // An expert, with probability proportional to its load (to 2^-32). Never one without load.
  int draw(Random& random) const {
    const uint64_t bits = random.next();
    const Column& column = columns_[((bits >> 32) * columns_.size()) >> 32];
    return (bits & 0xffffffffu) < column.threshold ? column.expert : column.alias;
  }

 private:
  // All columns are equally likely; one holds its own expert below the threshold (of 2^32), and the
  // alias above.
  struct Column {
    uint64_t threshold;
    int32_t expert;
    int32_t alias;
  };
  std::vector<Column> columns_;
};

}  // namespace wideep::eplb
