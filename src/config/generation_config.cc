#include "config/generation_config.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/json.h"
#include "config/json_fields.h"
#include "config/schema.h"

namespace wideep {

Result<GenerationConfig> parse_generation_config(std::string_view text, const std::string& name) {
  ASSIGN_OR_RETURN(const Json json, parse_json(text, name));
  if (!json.is_object()) return Status::invalid_input(fmt::format("{}: must be an object", name));
  Violations violations;
  const JsonFields fields(json, name, "", violations);
  GenerationConfig config;
  config.eos_token_ids = fields.token_ids("eos_token_id");
  config.do_sample = fields.boolean("do_sample", false);
  if (fields.has("temperature")) {
    config.temperature = fields.number("temperature", 1);
    // Some files say "greedy" with a temperature of 0 and do_sample false.
    if (*config.temperature < 0 || (*config.temperature == 0 && config.do_sample)) {
      fields.fail("temperature", "must be more than 0 where do_sample is true, else at least 0");
    }
    if (*config.temperature == 0) config.temperature.reset();
  }
  if (fields.has("top_p")) {
    config.top_p = fields.number("top_p", 1);
    if (*config.top_p <= 0 || *config.top_p > 1) {
      fields.fail("top_p", "must be more than 0 and at most 1");
    }
  }
  if (fields.has("top_k")) config.top_k = fields.integer("top_k", 0, 1 << 24);
  if (!violations.empty()) return violations.status();
  return config;
}

Result<GenerationConfig> read_generation_config(const std::string& folder) {
  const std::string file = join_path(folder, "generation_config.json");
  if (!path_exists(file)) return GenerationConfig();
  ASSIGN_OR_RETURN(const std::string text, read_file(file, int64_t{1} << 20));
  return parse_generation_config(text, file);
}

}  // namespace wideep
