// Feeds arbitrary text to the readers of YAML: none may crash, hang or take memory that is not in
// proportion, and what they accept must read back as itself. tests/corpus/yaml/ has the first
// inputs, which yaml_corpus_test.cc replays in every build.
#include <cstddef>
#include <cstdint>

#include "config/yaml_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wideep::check_yaml_readers({reinterpret_cast<const char*>(data), size});
  return 0;
}
