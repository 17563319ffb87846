// model.safetensors.index.json: which shard holds which tensor.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace wideep::models {

struct IndexEntry {
  std::string tensor;
  std::string file;  // in the index's folder

  bool operator==(const IndexEntry&) const = default;
};

// The weight map, sorted by tensor. Every violation at once, a line each; `name` (a path) opens
// them. A file is a plain name that ends in .safetensors: an index cannot point out of its folder.
Result<std::vector<IndexEntry>> parse_checkpoint_index(std::string_view json,
                                                       const std::string& name);

}  // namespace wideep::models
