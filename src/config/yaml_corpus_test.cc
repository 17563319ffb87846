// Replays the fuzzer's corpus in the ordinary build.
#include <gtest/gtest.h>

#include "base/file.h"
#include "config/yaml_testing.h"

namespace wideep {
namespace {

TEST(YamlCorpus, ReadersHold) {
  const std::string folder = WIDEEP_SOURCE_DIR "/tests/corpus/yaml";
  const Result<std::vector<std::string>> names = list_directory(folder);
  ASSERT_TRUE(names.is_ok()) << names.status().message();
  EXPECT_GE(names->size(), 10u);
  for (const std::string& name : *names) {
    SCOPED_TRACE(name);
    const Result<std::string> text = read_file(join_path(folder, name));
    ASSERT_TRUE(text.is_ok());
    check_yaml_readers(*text);
  }
}

}  // namespace
}  // namespace wideep
