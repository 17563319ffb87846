#include "base/json.h"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "base/file.h"

namespace wideep {
namespace {

constexpr int kMaxDepth = 64;

template <typename AnyJson>
Result<AnyJson> parse(std::string_view text, const std::string& name) {
  std::string problem;
  std::vector<std::set<std::string>> keys;  // of each open object
  const auto watch = [&](int depth, typename AnyJson::parse_event_t event, AnyJson& parsed) {
    if (depth > kMaxDepth && problem.empty()) {
      problem = fmt::format("nested more than {} deep", kMaxDepth);
    }
    if (event == AnyJson::parse_event_t::object_start) keys.emplace_back();
    if (event == AnyJson::parse_event_t::object_end) keys.pop_back();
    if (event == AnyJson::parse_event_t::key && problem.empty()) {
      const auto& key = parsed.template get_ref<const std::string&>();
      if (!keys.back().insert(key).second) problem = fmt::format("key \"{}\" appears twice", key);
    }
    return problem.empty();  // false discards the value, so that a hostile file stays small
  };
  try {
    AnyJson parsed = AnyJson::parse(text.begin(), text.end(), watch);
    if (!problem.empty()) return Status::invalid_input(fmt::format("{}: {}", name, problem));
    return parsed;
  } catch (const Json::parse_error& error) {
    return Status::invalid_input(
        fmt::format("{}: not valid JSON at byte {} of {}", name, error.byte, text.size()));
  } catch (const Json::exception& error) {
    return Status::invalid_input(fmt::format("{}: not valid JSON: {}", name, error.what()));
  }
}

}  // namespace

Result<Json> parse_json(std::string_view text, const std::string& name) {
  return parse<Json>(text, name);
}

Result<OrderedJson> parse_ordered_json(std::string_view text, const std::string& name) {
  return parse<OrderedJson>(text, name);
}

Status stream_json(std::string_view text, const std::string& name,
                   nlohmann::json_sax<Json>& handler) {
  try {
    Json::sax_parse(text.begin(), text.end(), &handler);
    return Status::ok();
  } catch (const Json::exception& error) {
    return Status::invalid_input(fmt::format("{}: not valid JSON: {}", name, error.what()));
  }
}

Result<Json> read_json(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse_json(text, path);
}

}  // namespace wideep
