#include "tokenizer/template_expression_parser.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "tokenizer/template_builtins.h"

namespace wideep::tokenizer {
namespace {

using Kind = TemplateTokenKind;

// Words that end an expression or join two; a test's argument is none of them.
bool is_operator_word(const TemplateToken& token) {
  static constexpr std::string_view kWords[] = {"and", "or", "if", "else", "is", "in", "not"};
  return token.kind == Kind::kName && std::ranges::find(kWords, token.text) != std::end(kWords);
}

}  // namespace

TemplateToken TokenCursor::take() {
  TemplateToken token = tokens_[position_];
  if (position_ + 1 < tokens_.size()) ++position_;
  return token;
}

bool TokenCursor::skip_operator(std::string_view text) {
  if (!at_operator(text)) return false;
  take();
  return true;
}

bool TokenCursor::skip_word(std::string_view text) {
  if (!at_word(text)) return false;
  take();
  return true;
}

Status TokenCursor::expect_operator(std::string_view text) {
  if (skip_operator(text)) return Status::ok();
  return unexpected(fmt::format("expected \"{}\"", text));
}

Result<std::string> TokenCursor::expect_name() {
  if (peek().kind != Kind::kName) return unexpected("expected a name");
  return take().text;
}

Status TokenCursor::unexpected(std::string_view wanted) const {
  const bool at_end = peek().kind == Kind::kEnd;
  return template_error(line(), at_end ? fmt::format("the template ends here, {}", wanted)
                                       : fmt::format("unexpected \"{}\", {}", peek().text, wanted));
}

void ExpressionParser::adopt(Expression& parent, ExpressionPtr child) {
  if (child != nullptr) parent.depth = std::max(parent.depth, child->depth + 1);
  parent.children.push_back(std::move(child));
}

Result<ExpressionPtr> ExpressionParser::checked(ExpressionPtr node) const {
  if (node->depth <= kMaxDepth) return node;
  return template_error(node->line, "an expression that is nested too deeply");
}

template <typename... Children>
Result<ExpressionPtr> ExpressionParser::make(ExpressionKind kind, int line, Children... children) {
  auto node = std::make_unique<Expression>(Expression{.kind = kind, .line = line});
  (adopt(*node, std::move(children)), ...);
  return checked(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::parse() {
  // Each level of brackets goes through here.
  if (nesting_ >= kMaxDepth) {
    return template_error(cursor_.line(), "an expression that is nested too deeply");
  }
  ++nesting_;
  Result<ExpressionPtr> result = parse_conditional();
  --nesting_;
  return result;
}

Result<ExpressionPtr> ExpressionParser::parse_conditional() {
  ASSIGN_OR_RETURN(ExpressionPtr value, parse_or());
  while (cursor_.at_word("if")) {
    const int line = cursor_.take().line;
    ASSIGN_OR_RETURN(ExpressionPtr condition, parse_or());
    ExpressionPtr otherwise;
    if (cursor_.skip_word("else")) {
      ASSIGN_OR_RETURN(otherwise, parse());
    }
    ASSIGN_OR_RETURN(value, make(ExpressionKind::kConditional, line, std::move(value),
                                 std::move(condition), std::move(otherwise)));
  }
  return value;
}

Result<ExpressionPtr> ExpressionParser::parse_tuple() {
  const int line = cursor_.line();
  ASSIGN_OR_RETURN(ExpressionPtr first, parse());
  if (!cursor_.at_operator(",")) return first;
  ASSIGN_OR_RETURN(ExpressionPtr tuple, make(ExpressionKind::kList, line, std::move(first)));
  while (cursor_.skip_operator(",")) {
    const Kind next = cursor_.peek().kind;
    if (cursor_.at_operator(")") || next == Kind::kBlockEnd || next == Kind::kOutputEnd) break;
    ASSIGN_OR_RETURN(ExpressionPtr element, parse());
    adopt(*tuple, std::move(element));
  }
  return checked(std::move(tuple));
}

Result<ExpressionPtr> ExpressionParser::parse_or() {
  ASSIGN_OR_RETURN(ExpressionPtr left, parse_and());
  while (cursor_.at_word("or")) {
    const int line = cursor_.take().line;
    ASSIGN_OR_RETURN(ExpressionPtr right, parse_and());
    ASSIGN_OR_RETURN(left, make(ExpressionKind::kOr, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExpressionPtr> ExpressionParser::parse_and() {
  ASSIGN_OR_RETURN(ExpressionPtr left, parse_not());
  while (cursor_.at_word("and")) {
    const int line = cursor_.take().line;
    ASSIGN_OR_RETURN(ExpressionPtr right, parse_not());
    ASSIGN_OR_RETURN(left, make(ExpressionKind::kAnd, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExpressionPtr> ExpressionParser::parse_not() {
  if (!cursor_.at_word("not")) return parse_compare();
  if (nesting_ >= kMaxDepth) {
    return template_error(cursor_.line(), "an expression that is nested too deeply");
  }
  const int line = cursor_.take().line;
  ++nesting_;
  Result<ExpressionPtr> operand = parse_not();
  --nesting_;
  RETURN_IF_ERROR(operand.status());
  return make(ExpressionKind::kNot, line, std::move(operand).value());
}

Result<ExpressionPtr> ExpressionParser::parse_compare() {
  static constexpr std::string_view kOperators[] = {"==", "!=", "<=", ">=", "<", ">"};
  ASSIGN_OR_RETURN(ExpressionPtr first, parse_sum());
  ExpressionPtr compare;
  for (;;) {
    std::string text;
    const int line = cursor_.line();
    if (cursor_.peek().kind == Kind::kOperator &&
        std::ranges::find(kOperators, cursor_.peek().text) != std::end(kOperators)) {
      text = cursor_.take().text;
    } else if (cursor_.skip_word("in")) {
      text = "in";
    } else if (cursor_.at_word("not") && cursor_.peek_second().is(Kind::kName, "in")) {
      cursor_.take();
      cursor_.take();
      text = "not in";
    } else {
      break;
    }
    if (compare == nullptr) {
      ASSIGN_OR_RETURN(compare, make(ExpressionKind::kCompare, line, std::move(first)));
    }
    compare->operators.push_back(std::move(text));
    ASSIGN_OR_RETURN(ExpressionPtr operand, parse_sum());
    adopt(*compare, std::move(operand));
  }
  return compare == nullptr ? Result<ExpressionPtr>(std::move(first)) : checked(std::move(compare));
}

template <size_t kCount>
Result<ExpressionPtr> ExpressionParser::parse_binary(Parse operand,
                                                     const std::string_view (&operators)[kCount]) {
  ASSIGN_OR_RETURN(ExpressionPtr left, (this->*operand)());
  while (cursor_.peek().kind == Kind::kOperator &&
         std::ranges::find(operators, cursor_.peek().text) != std::end(operators)) {
    const TemplateToken token = cursor_.take();
    ASSIGN_OR_RETURN(ExpressionPtr right, (this->*operand)());
    ASSIGN_OR_RETURN(left,
                     make(ExpressionKind::kBinary, token.line, std::move(left), std::move(right)));
    left->text = token.text;
  }
  return left;
}

Result<ExpressionPtr> ExpressionParser::parse_sum() {
  static constexpr std::string_view kOperators[] = {"+", "-"};
  return parse_binary(&ExpressionParser::parse_concat, kOperators);
}

Result<ExpressionPtr> ExpressionParser::parse_concat() {
  static constexpr std::string_view kOperators[] = {"~"};
  return parse_binary(&ExpressionParser::parse_product, kOperators);
}

Result<ExpressionPtr> ExpressionParser::parse_product() {
  static constexpr std::string_view kOperators[] = {"*", "/", "//", "%"};
  return parse_binary(&ExpressionParser::parse_power, kOperators);
}

Result<ExpressionPtr> ExpressionParser::parse_power() {
  static constexpr std::string_view kOperators[] = {"**"};
  return parse_binary(&ExpressionParser::parse_unary, kOperators);
}

// -x|f is (-x)|f, as Jinja has it.
Result<ExpressionPtr> ExpressionParser::parse_signed(bool with_filters) {
  ExpressionPtr node;
  if (cursor_.at_operator("-") || cursor_.at_operator("+")) {
    if (nesting_ >= kMaxDepth) {
      return template_error(cursor_.line(), "an expression that is nested too deeply");
    }
    const TemplateToken sign = cursor_.take();
    ++nesting_;
    Result<ExpressionPtr> operand = parse_signed(/*with_filters=*/false);
    --nesting_;
    RETURN_IF_ERROR(operand.status());
    ASSIGN_OR_RETURN(node, make(sign.text == "-" ? ExpressionKind::kNegate : ExpressionKind::kPlus,
                                sign.line, std::move(operand).value()));
  } else {
    ASSIGN_OR_RETURN(node, parse_primary());
  }
  ASSIGN_OR_RETURN(node, parse_postfix(std::move(node)));
  if (!with_filters) return node;
  return parse_filters_and_tests(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::parse_primary() {
  const TemplateToken& token = cursor_.peek();
  switch (token.kind) {
    case Kind::kName:
      if (is_operator_word(token)) return cursor_.unexpected("expected an expression");
      return parse_name();
    case Kind::kInteger:
    case Kind::kFloat:
      return parse_number();
    case Kind::kString: {
      ASSIGN_OR_RETURN(ExpressionPtr node, make(ExpressionKind::kLiteral, token.line));
      std::string text;
      while (cursor_.peek().kind == Kind::kString) text += cursor_.take().text;
      node->value = Value::string(std::move(text));
      return node;
    }
    default:
      break;
  }
  if (token.is(Kind::kOperator, "(")) return parse_parentheses();
  if (token.is(Kind::kOperator, "[")) return parse_list();
  if (token.is(Kind::kOperator, "{")) return parse_map();
  return cursor_.unexpected("expected an expression");
}

Result<ExpressionPtr> ExpressionParser::parse_name() {
  const TemplateToken token = cursor_.take();
  const std::string& name = token.text;
  const bool is_true = name == "true" || name == "True";
  const bool is_false = name == "false" || name == "False";
  const bool is_none = name == "none" || name == "None";
  const bool literal = is_true || is_false || is_none;
  ASSIGN_OR_RETURN(ExpressionPtr node,
                   make(literal ? ExpressionKind::kLiteral : ExpressionKind::kName, token.line));
  if (is_true || is_false) node->value = Value::boolean(is_true);
  if (!literal) node->text = name;
  return node;
}

Result<ExpressionPtr> ExpressionParser::parse_number() {
  const TemplateToken token = cursor_.take();
  ASSIGN_OR_RETURN(ExpressionPtr node, make(ExpressionKind::kLiteral, token.line));
  if (token.kind == Kind::kInteger) {
    const std::optional<int64_t> value = parse_int(token.text);
    if (!value) return template_error(token.line, token.text + ": a number that is too large");
    node->value = Value::integer(*value);
  } else {
    const std::optional<double> value = parse_double(token.text);
    if (!value) return template_error(token.line, token.text + ": a number that is too large");
    node->value = Value::number(*value);
  }
  return node;
}

Result<ExpressionPtr> ExpressionParser::parse_parentheses() {
  const int line = cursor_.take().line;
  if (cursor_.skip_operator(")")) return make(ExpressionKind::kList, line);
  ASSIGN_OR_RETURN(ExpressionPtr inside, parse_tuple());
  RETURN_IF_ERROR(cursor_.expect_operator(")"));
  return inside;
}

Result<ExpressionPtr> ExpressionParser::parse_list() {
  ASSIGN_OR_RETURN(ExpressionPtr list, make(ExpressionKind::kList, cursor_.take().line));
  while (!cursor_.skip_operator("]")) {
    if (!list->children.empty()) RETURN_IF_ERROR(cursor_.expect_operator(","));
    if (cursor_.skip_operator("]")) break;
    ASSIGN_OR_RETURN(ExpressionPtr element, parse());
    adopt(*list, std::move(element));
  }
  return checked(std::move(list));
}

Result<ExpressionPtr> ExpressionParser::parse_map() {
  ASSIGN_OR_RETURN(ExpressionPtr map, make(ExpressionKind::kMap, cursor_.take().line));
  while (!cursor_.skip_operator("}")) {
    if (!map->children.empty()) RETURN_IF_ERROR(cursor_.expect_operator(","));
    if (cursor_.skip_operator("}")) break;
    ASSIGN_OR_RETURN(ExpressionPtr key, parse());
    RETURN_IF_ERROR(cursor_.expect_operator(":"));
    ASSIGN_OR_RETURN(ExpressionPtr value, parse());
    adopt(*map, std::move(key));
    adopt(*map, std::move(value));
  }
  return checked(std::move(map));
}

Result<ExpressionPtr> ExpressionParser::parse_postfix(ExpressionPtr left) {
  for (;;) {
    if (cursor_.at_operator(".")) {
      const int line = cursor_.take().line;
      if (cursor_.peek().kind == Kind::kInteger) {
        return template_error(line, "an index behind a point is not supported: write [0]");
      }
      ASSIGN_OR_RETURN(const std::string name, cursor_.expect_name());
      ASSIGN_OR_RETURN(left, make(ExpressionKind::kAttribute, line, std::move(left)));
      left->text = name;
    } else if (cursor_.at_operator("[")) {
      ASSIGN_OR_RETURN(left, parse_subscript(std::move(left)));
    } else if (cursor_.at_operator("(")) {
      ASSIGN_OR_RETURN(left, make(ExpressionKind::kCall, cursor_.line(), std::move(left)));
      RETURN_IF_ERROR(parse_arguments(*left));
      ASSIGN_OR_RETURN(left, checked(std::move(left)));
    } else {
      return left;
    }
  }
}

Result<ExpressionPtr> ExpressionParser::parse_subscript(ExpressionPtr left) {
  const int line = cursor_.take().line;
  ExpressionPtr parts[3];
  int count = 0;
  bool is_slice = false;
  for (;;) {
    if (!cursor_.at_operator(":") && !cursor_.at_operator("]")) {
      ASSIGN_OR_RETURN(parts[count], parse());
    }
    if (!cursor_.skip_operator(":")) break;
    is_slice = true;
    if (++count == 3) return cursor_.unexpected("expected \"]\"");
  }
  RETURN_IF_ERROR(cursor_.expect_operator("]"));
  if (is_slice) {
    return make(ExpressionKind::kSlice, line, std::move(left), std::move(parts[0]),
                std::move(parts[1]), std::move(parts[2]));
  }
  if (parts[0] == nullptr) return template_error(line, "[] without an index");
  return make(ExpressionKind::kItem, line, std::move(left), std::move(parts[0]));
}

Status ExpressionParser::parse_arguments(Expression& call) {
  RETURN_IF_ERROR(cursor_.expect_operator("("));
  bool first = true;
  while (!cursor_.skip_operator(")")) {
    if (!first) RETURN_IF_ERROR(cursor_.expect_operator(","));
    first = false;
    if (cursor_.skip_operator(")")) break;
    const bool keyword =
        cursor_.peek().kind == Kind::kName && cursor_.peek_second().is(Kind::kOperator, "=");
    if (!keyword) {
      if (!call.keywords.empty()) return cursor_.unexpected("expected a keyword argument");
      ASSIGN_OR_RETURN(ExpressionPtr argument, parse());
      adopt(call, std::move(argument));
      continue;
    }
    std::string name = cursor_.take().text;
    cursor_.take();
    ASSIGN_OR_RETURN(ExpressionPtr argument, parse());
    call.depth = std::max(call.depth, argument->depth + 1);
    call.keywords.emplace_back(std::move(name), std::move(argument));
  }
  return Status::ok();
}

Result<ExpressionPtr> ExpressionParser::parse_filters_and_tests(ExpressionPtr left) {
  for (;;) {
    if (cursor_.at_operator("|")) {
      ASSIGN_OR_RETURN(left, parse_filter(std::move(left)));
    } else if (cursor_.at_word("is")) {
      ASSIGN_OR_RETURN(left, parse_test(std::move(left)));
    } else if (cursor_.at_operator("(")) {
      ASSIGN_OR_RETURN(left, parse_postfix(std::move(left)));
    } else {
      return left;
    }
  }
}

Result<ExpressionPtr> ExpressionParser::parse_filter(ExpressionPtr left) {
  const int line = cursor_.take().line;
  ASSIGN_OR_RETURN(const std::string name, cursor_.expect_name());
  ASSIGN_OR_RETURN(ExpressionPtr node, make(ExpressionKind::kFilter, line, std::move(left)));
  node->text = name;
  node->filter = find_filter(name);
  if (node->filter == nullptr) {
    return template_error(line, fmt::format("the filter \"{}\" is not supported", name));
  }
  if (cursor_.at_operator("(")) RETURN_IF_ERROR(parse_arguments(*node));
  return checked(std::move(node));
}

Result<ExpressionPtr> ExpressionParser::parse_test(ExpressionPtr left) {
  const int line = cursor_.take().line;
  const bool negated = cursor_.skip_word("not");
  ASSIGN_OR_RETURN(const std::string name, cursor_.expect_name());
  ASSIGN_OR_RETURN(ExpressionPtr node, make(ExpressionKind::kTest, line, std::move(left)));
  node->text = name;
  node->test = find_test(name);
  if (node->test == nullptr) {
    return template_error(line, fmt::format("the test \"{}\" is not supported", name));
  }
  const TemplateToken& next = cursor_.peek();
  const bool literal =
      next.kind == Kind::kString || next.kind == Kind::kInteger || next.kind == Kind::kFloat;
  if (cursor_.at_operator("(")) {
    RETURN_IF_ERROR(parse_arguments(*node));
  } else if (literal || cursor_.at_operator("[") || cursor_.at_operator("{") ||
             (next.kind == Kind::kName && !is_operator_word(next))) {
    ASSIGN_OR_RETURN(ExpressionPtr argument, parse_primary());
    ASSIGN_OR_RETURN(argument, parse_postfix(std::move(argument)));
    adopt(*node, std::move(argument));
  }
  ASSIGN_OR_RETURN(node, checked(std::move(node)));
  if (!negated) return node;
  return make(ExpressionKind::kNot, line, std::move(node));
}

}  // namespace wideep::tokenizer
