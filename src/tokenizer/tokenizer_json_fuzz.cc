// Feeds arbitrary bytes to the reader of tokenizer.json: see fuzz_testing.h.
#include <cstddef>
#include <cstdint>

#include "tokenizer/fuzz_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wideep::tokenizer::check_tokenizer_json({reinterpret_cast<const char*>(data), size});
  return 0;
}
