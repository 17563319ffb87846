// Feeds arbitrary bytes to the reader of rank files: see load_testing.h.
#include <cstddef>
#include <cstdint>

#include "eplb/load_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wideep::eplb::check_rank_file({reinterpret_cast<const char*>(data), size});
  return 0;
}
