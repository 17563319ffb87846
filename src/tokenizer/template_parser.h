// Source of a chat template -> syntax tree. What is not in the subset that chat_template.h names is
// an error with its line.
#pragma once

#include <string_view>

#include "base/status.h"
#include "tokenizer/template_ast.h"

namespace wideep::tokenizer {

Result<Block> parse_template(std::string_view source);

}  // namespace wideep::tokenizer
