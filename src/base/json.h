// JSON in and out, over nlohmann-json. Errors come back as Status with the file's name and the
// byte.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace wideep {

using Json = nlohmann::json;
// Keeps keys in the order in which they were written: for reports that people read.
using OrderedJson = nlohmann::ordered_json;

// Parses one JSON document nested at most 64 deep. `name` (a path) opens every error message.
// Duplicate keys, comments and trailing bytes are errors; NaN and infinities cannot be written in
// JSON.
Result<Json> parse_json(std::string_view text, const std::string& name);

// The same with the keys in the order in which they were written.
Result<OrderedJson> parse_ordered_json(std::string_view text, const std::string& name);

// Feeds a document to `handler` event by event, without building it in memory. A handler that
// returns false ends the parse: the caller then has the reason, and gets OK from here.
Status stream_json(std::string_view text, const std::string& name,
                   nlohmann::json_sax<Json>& handler);

// read_file and parse_json.
Result<Json> read_json(const std::string& path);

}  // namespace wideep
