// What must hold for any bytes at all that are given as a checkpoint's index: the fuzzer calls this
// with what it invents (make fuzz), checkpoint_corpus_test.cc with what is in tests/corpus/.
#pragma once

#include <string_view>

#include "base/check.h"
#include "models/checkpoint_index.h"

namespace wideep::models {

inline void check_checkpoint_index(std::string_view input) {
  const Result<std::vector<IndexEntry>> index = parse_checkpoint_index(input, "input");
  if (!index.is_ok()) {
    CHECK(!index.status().message().empty());
    return;
  }
  CHECK(!index->empty());
  for (size_t i = 0; i < index->size(); ++i) {
    const IndexEntry& entry = (*index)[i];
    CHECK(entry.file.ends_with(".safetensors"));
    CHECK(entry.file.find('/') == std::string::npos);
    CHECK(i == 0 || (*index)[i - 1].tensor < entry.tensor);
  }
}

}  // namespace wideep::models
