#include "models/checkpoint_index.h"

#include <fmt/format.h>

#include "base/json.h"
#include "config/schema.h"

namespace wideep::models {
namespace {

bool is_shard_name(std::string_view file) {
  return file.ends_with(".safetensors") && file.find('/') == std::string_view::npos;
}

}  // namespace

Result<std::vector<IndexEntry>> parse_checkpoint_index(std::string_view json,
                                                       const std::string& name) {
  ASSIGN_OR_RETURN(const Json index, parse_json(json, name));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object() || map->empty()) {
    return Status::invalid_input(
        fmt::format("{}: weight_map: must be an object of tensor names and file names", name));
  }
  Violations violations;
  std::vector<IndexEntry> entries;
  entries.reserve(map->size());
  for (const auto& [tensor, file] : map->items()) {
    if (file.is_string() && is_shard_name(file.get_ref<const std::string&>())) {
      entries.push_back({tensor, file.get<std::string>()});
      continue;
    }
    const std::string shown = file.dump(-1, ' ', true, Json::error_handler_t::replace);
    violations.add(name, "weight_map." + tensor, shown.substr(0, 60),
                   "must be the name of a .safetensors file in the same folder");
  }
  if (!violations.empty()) return violations.status();
  return entries;
}

}  // namespace wideep::models
