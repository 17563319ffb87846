#include "config/balancer_config.h"

#include <fmt/format.h>

#include <array>
#include <iterator>
#include <span>

#include "base/file.h"
#include "base/text.h"
#include "config/balancer_schema.h"
#include "config/limits.h"
#include "config/schema.h"
#include "config/schema_keys.h"

namespace wideep {
namespace {

constexpr char kAssignments[] = "initial_global_assignments";
constexpr char kLayerUpdates[] = "layer_updates_per_iter";

// In the order of the enums.
using Names = std::span<const std::string_view>;
constexpr std::array<std::string_view, 3> kReplicaChoices = {"round_robin", "quota", "per_batch"};
constexpr std::array<std::string_view, 2> kCombineModes = {"reduced", "exact"};
constexpr std::array<std::string_view, 2> kWeightSources = {"peer", "host"};
constexpr std::array<std::string_view, 5> kAlgorithms = {"recourse", "balanced", "tensorrt_llm",
                                                         "deepseek", "cooccurrence"};
constexpr size_t kIncrementalAlgorithms = 2;  // the first ones make a plan from a plan

template <typename E>
std::string_view name_of(Names names, E value) {
  return names[static_cast<size_t>(value)];
}

template <typename E>
Result<E> parse_name(std::string_view what, Names names, std::string_view name) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (to_lower(name) == names[i]) return static_cast<E>(i);
  }
  const std::string near = nearest_word(name, names);
  return Status::invalid_input(fmt::format("{} {}: must be one of {}{}", what, name,
                                           fmt::join(names, ", "),
                                           near.empty() ? "" : "; did you mean " + near + "?"));
}

template <typename E>
Spellings<E> spellings(Names names) {
  Spellings<E> list;
  for (const std::string_view name : names) list.push_back({std::string(name), E(list.size())});
  return list;
}

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

using BalancerKeys = std::vector<Key<BalancerConfig>>;

// TensorRT-LLM's keys.
BalancerKeys placement_keys() {
  return {{.path = kAssignments,
           .type = "map of decoder layer to list of num_slots expert ids, or null",
           .doc = "Expert that each slot starts with; null: slot j of EP rank r starts with expert "
                  "(floor(r * experts / ep) + j) mod experts",
           .target = "",
           .read = read_assignments,
           .write = write_assignments},
          int_key<BalancerConfig>(
              "num_slots", FIELD(num_slots), {1, kMaxSlots},
              "Slots of a layer over all EP ranks: divisible by the EP size, at least the "
              "experts. To run without a balancer set load_balancer to null, not this to 0"),
          int_key<BalancerConfig>(
              kLayerUpdates, FIELD(layer_updates_per_iter), {0, kMaxLayers},
              "0: the plan stays as it is (offline); more: layers whose plan may change in an "
              "iteration (online)")};
}

// How tokens go to slots and come back.
BalancerKeys routing_keys() {
  return {enum_key<BalancerConfig>(
              "replica_choice", FIELD(replica_choice), spellings<ReplicaChoice>(kReplicaChoices),
              "Which replica of its expert takes a token. round_robin: each in turn; quota: fixed "
              "shares, from the load that the plan was made for; per_batch: the shares that "
              "balance this batch best"),
          enum_key<BalancerConfig>(
              "combine", FIELD(combine), spellings<CombineMode>(kCombineModes),
              "How expert outputs are summed. reduced: on each rank first, fewest bytes; exact: on "
              "the token's rank in the order of its choices, the same bits for any plan, EP size "
              "and migration")};
}

BalancerKeys online_keys() {
  const Names incremental = Names(kAlgorithms).first(kIncrementalAlgorithms);
  return {
      number_key<BalancerConfig>("decay", FIELD(decay), {0, 1},
                                 "Online: factor on a layer's load at every iteration. 0: the last "
                                 "iteration alone, 1: a plain sum"),
      int_key<BalancerConfig>(
          "max_transfers_per_iter", FIELD(max_transfers_per_iter), {1, kMaxSlots},
          "Online: experts that a rank receives in an iteration, over all layers; it has staging "
          "memory for so many. 8 of DeepSeek-V3's in FP8 are 352 MB, 1 ms of one direction of "
          "NVLink"),
      number_key<BalancerConfig>("min_gain", FIELD(min_gain), {0, kMaxRanks},
                                 "Online: a plan changes only where the fullest rank's load over "
                                 "the mean falls by more than this"),
      enum_key<BalancerConfig>("weight_source", FIELD(weight_source),
                               spellings<WeightSource>(kWeightSources),
                               "Online: where a slot's new expert comes from. peer: a rank that "
                               "holds it; host: a copy of all experts in each node's shared "
                               "memory (/dev/shm), with huge pages"),
      enum_key<BalancerConfig>(
          "algorithm", FIELD(algorithm), spellings<Algorithm>(incremental),
          "Online: how plans are made. recourse: replicas placed so that every batch can be "
          "balanced; balanced: for the even split only",
          {.values = {kAlgorithms.begin() + kIncrementalAlgorithms, kAlgorithms.end()},
           .reason = "it plans from scratch, use it with `wideep eplb generate --algorithm`"})};
}

BalancerKeys balancer_keys() {
  BalancerKeys keys = placement_keys();
  for (BalancerKeys more : {routing_keys(), online_keys()}) {
    std::move(more.begin(), more.end(), std::back_inserter(keys));
  }
  return keys;
}

// The keys that have their default, or those that have not.
std::string yaml_of_keys(const BalancerConfig& config, bool defaults) {
  const BalancerConfig fallback;
  std::string text;
  for (const Key<BalancerConfig>& key : balancer_schema().keys) {
    const std::string value = key.write(config);
    // TensorRT-LLM's tool always writes layer_updates_per_iter.
    const bool is_default = value == key.write(fallback) && key.path != kLayerUpdates;
    if (is_default != defaults) continue;
    const std::string_view separator = value.starts_with('\n') ? ":" : ": ";
    text += fmt::format("{}{}{}{}", key.path, separator, value, separator == ":" ? "" : "\n");
  }
  return text;
}

}  // namespace

const Schema<BalancerConfig>& balancer_schema() {
  static const Schema<BalancerConfig> schema{
      .sections = {},
      .keys = balancer_keys(),
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
  return yaml_of_keys(config, /*defaults=*/false);
}

std::string balancer_defaults_yaml(const BalancerConfig& config) {
  return yaml_of_keys(config, /*defaults=*/true);
}

std::string_view replica_choice_name(ReplicaChoice choice) {
  return name_of(kReplicaChoices, choice);
}
std::string_view combine_mode_name(CombineMode mode) {
  return name_of(kCombineModes, mode);
}
std::string_view weight_source_name(WeightSource source) {
  return name_of(kWeightSources, source);
}
std::string_view algorithm_name(Algorithm algorithm) {
  return name_of(kAlgorithms, algorithm);
}
Result<ReplicaChoice> parse_replica_choice(std::string_view name) {
  return parse_name<ReplicaChoice>("replica_choice", kReplicaChoices, name);
}
Result<CombineMode> parse_combine_mode(std::string_view name) {
  return parse_name<CombineMode>("combine", kCombineModes, name);
}
Result<WeightSource> parse_weight_source(std::string_view name) {
  return parse_name<WeightSource>("weight_source", kWeightSources, name);
}
Result<Algorithm> parse_algorithm(std::string_view name) {
  return parse_name<Algorithm>("algorithm", kAlgorithms, name);
}

}  // namespace wideep
