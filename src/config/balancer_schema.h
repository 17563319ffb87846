// The keys of the load balancer's section, for the readers of config/: a file of its own, an inline
// map of the engine's configuration, and the key table.
#pragma once

#include "config/balancer_config.h"
#include "config/schema.h"

namespace wideep {

const Schema<BalancerConfig>& balancer_schema();

// Reads a map of balancer keys, wherever it stands. Every entry of the assignments gets an origin
// "initial_global_assignments.<layer>".
BalancerConfig read_balancer_map(const ReadContext& context, const YamlNode& map);

// A line for each key that balancer_config_yaml leaves out.
std::string balancer_defaults_yaml(const BalancerConfig& config);

}  // namespace wideep
