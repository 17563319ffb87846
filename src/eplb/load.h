// Reads the load of any source that wideep knows: a statistics folder, SGLang's logical_count json,
// a csv table, or an npy trace.
#pragma once

#include <string>

#include "base/status.h"
#include "eplb/statistics.h"
#include "eplb/types.h"

namespace wideep::eplb {

enum class LoadFormat { kStatistics, kSglang, kCsv, kTrace };

// By what the path is: a folder -> kStatistics, .json -> kSglang, .csv -> kCsv, .npy -> kTrace.
Result<LoadFormat> load_format(const std::string& path);

// The load at `path`, exactly as recorded. Layers without any token at the front of an SGLang file
// are dense layers and are left out, so that rows keep their decoder layer numbers. The window
// applies to statistics folders only.
Result<Load> read_load(const std::string& path, IterationWindow window = {});

}  // namespace wideep::eplb
