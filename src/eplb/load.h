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

// The load at `path`, exactly as recorded. Layers without any token at the front of an SGLang or
// csv file are dense layers and are left out; the other rows keep their decoder layer numbers. The
// window applies to statistics folders only.
Result<Load> read_load(const std::string& path, IterationWindow window = {});

// The same for a path whose name does not say what it is. dataset: csv tables only, the rows of one
// value of the column `dataset`; "": all.
Result<Load> read_load_as(LoadFormat format, const std::string& path, IterationWindow window = {},
                          const std::string& dataset = "");

}  // namespace wideep::eplb
