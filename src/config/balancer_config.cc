#include "config/balancer_config.h"

#include <fmt/format.h>

#include <iterator>

#include "base/file.h"
#include "config/balancer_schema.h"
#include "config/limits.h"
#include "config/schema.h"
#include "config/schema_keys.h"

namespace wideep {
namespace {

constexpr char kAssignments[] = "initial_global_assignments";

// One layer's list of expert ids; violations name the first wrong item only, not all of thousands.
std::optional<std::vector<int>> read_assignment(const ReadContext& context, const std::string& path,
                                                const YamlNode& value) {
  if (!value.is_list()) {
    context.fail(value, path, "must be a list of expert ids, one for each slot");
    return std::nullopt;
  }
  std::vector<int> experts;
  experts.reserve(static_cast<size_t>(value.size()));
  for (const YamlNode& item : value.items()) {
    const std::optional<int64_t> expert = scalar_int(item);
    if (!expert || *expert < 0 || *expert >= kMaxExperts) {
      context.fail(item, fmt::format("{}[{}]", path, experts.size()),
                   fmt::format("must be an expert id, 0 to {}", kMaxExperts - 1));
      return std::nullopt;
    }
    experts.push_back(static_cast<int>(*expert));
  }
  return experts;
}

void read_assignments(const ReadContext& context, const std::string& written, const YamlNode& value,
                      BalancerConfig& out) {
  if (value.is_null()) return;
  if (!value.is_map()) {
    return context.fail(value, written, "must be a map of decoder layer to list of expert ids");
  }
  for (const auto& [key, list] : value.entries()) {
    const std::string path = fmt::format("{}.{}", written, key.text());
    const std::optional<int64_t> layer = scalar_int(key);
    if (!layer || *layer < 0 || *layer >= kMaxLayers) {
      context.violations.add(context.place(key), written, describe(key),
                             fmt::format("a key must be a decoder layer, 0 to {}", kMaxLayers - 1));
      continue;
    }
    std::optional<std::vector<int>> experts = read_assignment(context, path, list);
    if (!experts || !context.claim(key, path, path)) continue;
    out.initial_global_assignments[static_cast<int>(*layer)] = *std::move(experts);
  }
}

std::string write_assignments(const BalancerConfig& config) {
  if (config.initial_global_assignments.empty()) return "null";
  std::string text = "\n";
  for (const auto& [layer, experts] : config.initial_global_assignments) {
    fmt::format_to(std::back_inserter(text), "  {}: [{}]\n", layer, fmt::join(experts, ", "));
  }
  return text;
}

// Lists have one entry for each slot, where the number of slots is given.
void check_lengths(const ReadContext& context, const BalancerConfig& config) {
  if (!config.num_slots) return;
  for (const auto& [layer, experts] : config.initial_global_assignments) {
    if (static_cast<int>(experts.size()) == *config.num_slots) continue;
    const std::string path = fmt::format("{}.{}", kAssignments, layer);
    context.violations.add(context.origins.at(path).place, path,
                           fmt::format("a list of {}", experts.size()),
                           fmt::format("must have num_slots = {} entries", *config.num_slots));
  }
}

}  // namespace

const Schema<BalancerConfig>& balancer_schema() {
  static const Schema<BalancerConfig> schema{
      .sections = {},
      .keys =
          {{.path = kAssignments,
            .type = "map of decoder layer to list of num_slots expert ids, or null",
            .doc =
                "Expert that each slot starts with; null: slot j of EP rank r starts with expert "
                "(floor(r * experts / ep) + j) mod experts",
            .target = "",
            .read = read_assignments,
            .write = write_assignments},
           int_key<BalancerConfig>(
               "num_slots", FIELD(num_slots), {1, kMaxSlots},
               "Slots of a layer over all EP ranks: divisible by the EP size, at least the "
               "experts. To run without a balancer set load_balancer to null, not this to 0"),
           int_key<BalancerConfig>(
               "layer_updates_per_iter", FIELD(layer_updates_per_iter), {0, kMaxLayers},
               "0: the plan stays as it is (offline); more: layers whose plan may change in an "
               "iteration (online)")},
      .refused = {{"ep_size",
                   "is not a key of the load balancer (some planners write it, TensorRT-LLM "
                   "refuses it too): remove it, the EP size is moe_expert_parallel_size"}}};
  return schema;
}

BalancerConfig read_balancer_map(const ReadContext& context, const YamlNode& map) {
  BalancerConfig config;
  if (!map.is_map()) {
    context.fail(map, "load balancer", "must be a map with num_slots");
    return config;
  }
  balancer_schema().read(context, map, config);
  check_lengths(context, config);
  return config;
}

Result<BalancerConfig> parse_balancer_config(std::string_view yaml, const std::string& name) {
  ASSIGN_OR_RETURN(const YamlDocument document, YamlDocument::parse(yaml, name));
  Violations violations;
  Origins origins;
  BalancerConfig config = read_balancer_map({name, violations, origins}, document.root());
  if (!violations.empty()) return violations.status();
  return config;
}

Result<BalancerConfig> read_balancer_config(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, kYamlMaxBytes));
  return parse_balancer_config(text, path);
}

std::string balancer_config_yaml(const BalancerConfig& config) {
  std::string text;
  if (!config.initial_global_assignments.empty()) {
    text += fmt::format("{}:{}", kAssignments, write_assignments(config));
  }
  if (config.num_slots) text += fmt::format("num_slots: {}\n", *config.num_slots);
  text += fmt::format("layer_updates_per_iter: {}\n", config.layer_updates_per_iter);
  return text;
}

}  // namespace wideep
