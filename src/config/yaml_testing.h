// What is asked of the readers of YAML for any text at all; the body of the fuzzer and of the test
// that replays its corpus.
#pragma once

#include <string>
#include <string_view>

#include "base/check.h"
#include "config/config.h"

namespace wideep {

inline void check_yaml_readers(std::string_view text) {
  const Result<BalancerConfig> balancer = parse_balancer_config(text, "fuzz.yaml");
  if (balancer.is_ok()) {
    const std::string written = balancer_config_yaml(*balancer);
    const Result<BalancerConfig> again = parse_balancer_config(written, "fuzz.yaml");
    CHECK(again.is_ok());
    CHECK(again->num_slots == balancer->num_slots);
    CHECK(again->initial_global_assignments == balancer->initial_global_assignments);
    CHECK(balancer_config_yaml(*again) == written);
  }
  const Result<EngineConfig> engine = parse_engine_config(text, "fuzz.yaml");
  if (engine.is_ok()) {
    const std::string written = engine_config_yaml(*engine);
    const Result<EngineConfig> again = parse_engine_config(written, "fuzz.yaml");
    CHECK(again.is_ok());
    // Only the comments, which say where values came from, may differ.
    EngineConfig a = *engine;
    EngineConfig b = *again;
    a.origins.clear();
    b.origins.clear();
    CHECK(engine_config_yaml(a) == engine_config_yaml(b));
  }
}

}  // namespace wideep
