// Cuts the source of a chat template into tokens, with the white space removed that Jinja removes:
// by "-" at a tag, and by trim_blocks and lstrip_blocks, which Hugging Face switches on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace wideep::tokenizer {

enum class TemplateTokenKind {
  kText,         // between tags
  kOutputBegin,  // {{
  kOutputEnd,    // }}
  kBlockBegin,   // {%
  kBlockEnd,     // %}
  kName,
  kString,  // text: its value, escapes replaced
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct TemplateToken {
  TemplateTokenKind kind = TemplateTokenKind::kEnd;
  std::string text;
  int line = 0;  // of the source, from 1

  bool is(TemplateTokenKind other, std::string_view what) const {
    return kind == other && text == what;
  }
};

// "line L: what" where the source is not a template. The last token is kEnd.
Result<std::vector<TemplateToken>> tokenize_template(std::string_view source);

// An error in line L.
Status template_error(int line, std::string_view what);

}  // namespace wideep::tokenizer
