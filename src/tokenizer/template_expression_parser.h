// The parser of expressions, by recursive descent with Jinja's precedence, and the cursor over
// tokens that it shares with the parser of statements.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/template_ast.h"
#include "tokenizer/template_lexer.h"

namespace wideep::tokenizer {

class TokenCursor {
 public:
  explicit TokenCursor(std::vector<TemplateToken> tokens) : tokens_(std::move(tokens)) {}

  const TemplateToken& peek() const { return tokens_[position_]; }
  const TemplateToken& peek_second() const {
    return tokens_[std::min(position_ + 1, tokens_.size() - 1)];
  }
  TemplateToken take();
  int line() const { return peek().line; }

  bool at_operator(std::string_view text) const {
    return peek().is(TemplateTokenKind::kOperator, text);
  }
  bool at_word(std::string_view text) const { return peek().is(TemplateTokenKind::kName, text); }
  // Takes it if it is next.
  bool skip_operator(std::string_view text);
  bool skip_word(std::string_view text);
  Status expect_operator(std::string_view text);
  Result<std::string> expect_name();

  // "line L: unexpected ..., WANTED"
  Status unexpected(std::string_view wanted) const;

 private:
  std::vector<TemplateToken> tokens_;
  size_t position_ = 0;
};

class ExpressionParser {
 public:
  // Deeper trees are refused: parser and evaluator recurse.
  static constexpr int kMaxDepth = 100;

  explicit ExpressionParser(TokenCursor& cursor) : cursor_(cursor) {}

  // With inline if.
  Result<ExpressionPtr> parse();
  // Also "a, b", which is a list.
  Result<ExpressionPtr> parse_tuple();
  // Without inline if: what a loop runs over.
  Result<ExpressionPtr> parse_or();

 private:
  using Parse = Result<ExpressionPtr> (ExpressionParser::*)();

  Result<ExpressionPtr> parse_conditional();
  Result<ExpressionPtr> parse_and();
  Result<ExpressionPtr> parse_not();
  Result<ExpressionPtr> parse_compare();
  Result<ExpressionPtr> parse_sum();
  Result<ExpressionPtr> parse_concat();
  Result<ExpressionPtr> parse_product();
  Result<ExpressionPtr> parse_power();
  Result<ExpressionPtr> parse_unary() { return parse_signed(/*with_filters=*/true); }
  Result<ExpressionPtr> parse_signed(bool with_filters);
  Result<ExpressionPtr> parse_primary();
  Result<ExpressionPtr> parse_name();
  Result<ExpressionPtr> parse_number();
  Result<ExpressionPtr> parse_parentheses();
  Result<ExpressionPtr> parse_list();
  Result<ExpressionPtr> parse_map();
  Result<ExpressionPtr> parse_postfix(ExpressionPtr left);
  Result<ExpressionPtr> parse_filters_and_tests(ExpressionPtr left);
  Result<ExpressionPtr> parse_filter(ExpressionPtr left);
  Result<ExpressionPtr> parse_test(ExpressionPtr left);
  Result<ExpressionPtr> parse_subscript(ExpressionPtr left);
  Status parse_arguments(Expression& call);
  // left OPERATOR right OPERATOR right ..., from the left.
  template <size_t kCount>
  Result<ExpressionPtr> parse_binary(Parse operand, const std::string_view (&operators)[kCount]);

  // A node over its children, which sets its depth.
  template <typename... Children>
  Result<ExpressionPtr> make(ExpressionKind kind, int line, Children... children);
  Result<ExpressionPtr> checked(ExpressionPtr node) const;
  static void adopt(Expression& parent, ExpressionPtr child);

  TokenCursor& cursor_;
  int nesting_ = 0;
};

}  // namespace wideep::tokenizer
