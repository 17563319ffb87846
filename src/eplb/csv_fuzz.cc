// Feeds arbitrary bytes to the reader of csv loads: see load_testing.h.
#include <cstddef>
#include <cstdint>

#include "eplb/load_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wideep::eplb::check_csv({reinterpret_cast<const char*>(data), size});
  return 0;
}
