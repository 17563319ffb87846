// Whether and when routed experts are counted: TensorRT-LLM's two environment variables.
//
//   EXPERT_STATISTIC_ITER_RANGE=100-200   iterations 100 to 199 of the engine's counter
//   EXPERT_STATISTIC_PATH=FOLDER          where the statistics folder is written (docs/formats.md)
//
// The range switches counting on and needs the path; the path alone switches nothing on, so that
// unsetting the range is all that it takes to measure without counting.
#pragma once

#include <optional>
#include <string>

#include "base/status.h"

namespace wideep::engine {

struct StatisticsOptions {
  std::string folder;
  int iter_start = 0;  // half-open window, not empty
  int iter_stop = 0;
};

// nullopt: off. kInvalidInput names variable, value and rule.
Result<std::optional<StatisticsOptions>> statistics_from_environment();

}  // namespace wideep::engine
