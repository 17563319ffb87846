// How uneven loads were, as text and as JSON: of `wideep eplb report` and of benchmarks that count.
#pragma once

#include <string>

#include "base/json.h"
#include "eplb/report.h"

namespace wideep::cli {

// The table of report.main(): a line a layer and their average, in TensorRT-LLM's layout.
std::string load_table_text(const eplb::LoadReport& report);

OrderedJson load_view_json(const eplb::LoadView& view);

}  // namespace wideep::cli
