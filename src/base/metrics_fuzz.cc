// Feeds arbitrary bytes to the reader of metrics: see formats_testing.h.
#include <cstddef>
#include <cstdint>

#include "base/formats_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wideep::check_metrics({reinterpret_cast<const char*>(data), size});
  return 0;
}
