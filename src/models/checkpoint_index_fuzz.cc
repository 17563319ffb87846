// Feeds arbitrary bytes to the reader of checkpoint indices: see checkpoint_index_testing.h.
#include <cstddef>
#include <cstdint>

#include "models/checkpoint_index_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wideep::models::check_checkpoint_index({reinterpret_cast<const char*>(data), size});
  return 0;
}
